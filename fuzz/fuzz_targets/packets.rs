//! Packets of any link type, and the requests in them: nothing panics, memory stays within its bounds, and what is
//! reported is a request.
//!
//! What enters: options and frames. A frame is the number of its link type in [`LINKS`], how much time has passed
//! before it, the length of its data, and the data.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use reprise_fuzz::check;
use reprise_fuzz::input::Input;
use reprise_listener::budget::Budget;
use reprise_listener::edge::Edge;
use reprise_listener::packet::{DecodeSettings, Decoder, Frame, LinkType};
use reprise_listener::reassembly::{Answers, Limits, Ports, Reassembler, Settings};
use reprise_traffic::exchange::Captured;

/// One number of each link type that is understood.
const LINKS: [i32; 11] = [1, 0, 101, 113, 276, 239, 9, 166, 51, 100, 258];

const CONNECTIONS: usize = 4;

/// Milliseconds that pass before a frame: none, within all limits, and past them one by one.
const PAUSES: [u64; 8] = [0, 1, 40, 2_500, 11_000, 31_000, 61_000, 601_000];

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let options = input.byte();
    let limit = [1 << 10, 4 << 10, 32 << 10, 1 << 20][usize::from(options >> 3) & 3];
    let budget = Arc::new(Budget::new(limit));
    let settings = settings(options, budget.clone());
    let mut reassembler = Reassembler::new(settings.clone(), Arc::new(Edge::default()));
    let mut decoder = Decoder::new(DecodeSettings {
        tunnels: options & 0x20 == 0,
        ..DecodeSettings::default()
    });
    let (mut at_ns, mut fragments) = (1_000_000_000, 0);
    while !input.is_empty() {
        let frame = frame(&mut input, &mut at_ns);
        let Ok(segment) = decoder.decode(&frame) else {
            fragments += 1;
            continue;
        };
        assert!(segment.payload.len() <= (1 << 20));
        reassembler.push(&segment, at_ns, &mut |request: Captured| {
            assert!(request.captured_ns <= at_ns);
            check::captured(&request, &settings);
        });
        assert!(reassembler.held() <= limit);
        assert_eq!(budget.used(), reassembler.held());
        assert!(reassembler.connections() <= CONNECTIONS);
    }
    reassembler.finish(&mut |request| check::captured(&request, &settings));
    assert_eq!((reassembler.held(), budget.used()), (0, 0));
    assert_eq!(reassembler.connections(), 0);
    assert!(decoder.finish() <= fragments);
});

fn settings(options: u8, budget: Arc<Budget>) -> Settings {
    Settings {
        limits: Limits {
            max_exchange: 4 << 10,
            early: 2 << 10,
            connections: CONNECTIONS,
            ..Limits::default()
        },
        ports: match options & 4 {
            0 => Ports::Any,
            _ => Ports::only(&[80]),
        },
        answers: match options & 3 {
            0 => Answers::Unseen,
            1 => Answers::Switches,
            2 => Answers::Watched,
            _ => Answers::Kept { max_body: 256 },
        },
        budget,
        shed: None,
    }
}

fn frame<'a>(input: &mut Input<'a>, at_ns: &mut u64) -> Frame<'a> {
    let number = LINKS[usize::from(input.byte()) % LINKS.len()];
    let control = input.byte();
    let length = usize::from(input.u16());
    let data = input.take(length);
    *at_ns += PAUSES[usize::from(control) & 7] * 1_000_000;
    // The snap length of a capture may cut packets off.
    let cut = usize::from(control >> 3) * 7;
    Frame {
        link: LinkType::from_number(number).expect("a known number"),
        at_ns: *at_ns,
        wire_len: data.len() + cut,
        data,
    }
}
