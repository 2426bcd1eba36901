//! A conversation gives the same requests and answers however it is cut, reordered and repeated.
//!
//! What enters: options, a schedule, and what a client and a server send by turns.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use reprise_fuzz::conversation::{Conversation, Losses, Schedule};
use reprise_fuzz::input::Input;
use reprise_listener::budget::Budget;
use reprise_listener::reassembly::{Answers, Limits, Ports, Settings};

const MAX_BODY: usize = 256;

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let options = input.byte();
    let answers = match options & 3 {
        0 => Answers::Unseen,
        1 => Answers::Watched,
        _ => Answers::Kept { max_body: MAX_BODY },
    };
    // Close to where 32-bit numbers begin anew, or anywhere.
    let first = match options & 4 {
        0 => [0, 7_000],
        _ => [
            u32::MAX - u32::from(input.byte()),
            u32::from(input.u16()) << 16,
        ],
    };
    let fin = [options & 8 != 0, options & 16 != 0];
    let ports = match options & 32 {
        0 => Ports::Any,
        _ => Ports::only(&[80, 8080]),
    };
    let length = usize::from(input.byte());
    let mut schedule = Schedule::new(input.take(length));
    schedule.garbled = options & 64 != 0;
    let conversation = Conversation::new(input.rest(), first, fin);
    let settings = |answers| Settings {
        limits: Limits {
            max_exchange: 1000,
            ..Limits::default()
        },
        ports: ports.clone(),
        answers,
        budget: Arc::new(Budget::new(0)),
        shed: None,
    };

    let expected = conversation.in_order(&settings(answers));
    let found = conversation.scheduled(schedule, &settings(answers));
    let may_switch = may_switch(&conversation.asked());
    if answers == Answers::Unseen || expected.is_flawless() {
        assert_eq!(found, expected);
    } else if !may_switch {
        assert_eq!(found.requests(), expected.requests());
        assert_eq!(found.counts, expected.counts);
    }
    if !may_switch {
        let unseen = conversation.in_order(&settings(Answers::Unseen));
        assert_eq!(unseen.requests(), expected.requests());
    }
    // What is lost may take requests with it; each that is left is checked.
    schedule.losses = Losses::Both;
    conversation.scheduled(schedule, &settings(answers));
});

/// Whether there may be a request after which the answer decides what the client's bytes are.
fn may_switch(asked: &[u8]) -> bool {
    let has = |word: &[u8]| {
        let mut windows = asked.windows(word.len());
        windows.any(|window| window.eq_ignore_ascii_case(word))
    };
    has(b"connect") || has(b"upgrade")
}
