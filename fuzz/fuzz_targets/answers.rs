//! What a server sends is read alike however it is cut, and never changes which requests are reported.
//!
//! What enters: options, a schedule, and all bytes of a server, which answers four requests of chosen kinds.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use reprise_fuzz::conversation::{Conversation, Losses, Schedule};
use reprise_fuzz::input::Input;
use reprise_listener::budget::Budget;
use reprise_listener::reassembly::{Answers, Limits, Ports, Settings};

const ASKED: [&str; 4] = [
    "GET /1 HTTP/1.1\r\n\r\n",
    "HEAD /2 HTTP/1.1\r\n\r\n",
    "POST /3 HTTP/1.1\r\nContent-Length: 2\r\n\r\nab",
    "GET /4 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
];
const SWITCHING: [&str; 2] = [
    "GET /5 HTTP/1.1\r\nUpgrade: w\r\n\r\n",
    "CONNECT h:6 HTTP/1.1\r\n\r\n",
];

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let (options, kinds) = (input.byte(), input.byte());
    let mut asked: Vec<&str> = (0..4)
        .map(|n| ASKED[usize::from(kinds >> (2 * n)) & 3])
        .collect();
    let switches = options & 1 != 0;
    if switches {
        asked.insert(
            usize::from(options >> 1) & 3,
            SWITCHING[usize::from(options >> 3) & 1],
        );
    }
    let asked = asked.concat();
    let length = usize::from(input.byte());
    let mut schedule = Schedule::new(input.take(length));
    let fin = [options & 16 != 0, options & 32 != 0];
    let turns = vec![asked.as_bytes(), input.rest()];
    let conversation = Conversation::of_turns(turns, [u32::MAX - 100, u32::MAX - 200], fin);
    let settings = Settings {
        limits: Limits::default(),
        ports: Ports::only(&[80]),
        answers: Answers::Kept { max_body: 100 },
        budget: Arc::new(Budget::new(0)),
        shed: None,
    };

    let expected = conversation.in_order(&settings);
    let found = conversation.scheduled(schedule, &settings);
    if expected.is_flawless() {
        assert_eq!(found, expected);
    }
    if !switches {
        assert_eq!(expected.rows.len(), 4);
        schedule.losses = Losses::Server;
        let lossy = conversation.scheduled(schedule, &settings);
        for other in [found, lossy] {
            assert_eq!(other.requests(), expected.requests());
        }
    }
});
