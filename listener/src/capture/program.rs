//! The kernel's filter as a classic BPF program for a socket that shows the packets of all interfaces.
//!
//! What enters: expressions over IP packets, each with the interfaces that it is for. What leaves: one program.
//! What may be lost: nothing; what doesn't fit is an error.
//!
//! libpcap compiles the expressions, as for packets without a link layer. A prologue tells the interfaces apart, and
//! finds the IP packet behind VLAN tags and MPLS labels that the kernel has left in place: for each place a copy of
//! the compiled program stands there, its loads moved. libpcap's own way to change a filter would lose the packets
//! that come while it does so.

use pcap::{Capture, Linktype};
use socket2::SockFilter;

use super::CaptureError;

/// `BPF_MAXINSNS` of linux/bpf_common.h.
const LONGEST: usize = 4096;

/// DLT_RAW.
const RAW: Linktype = Linktype(12);

// Codes of linux/bpf_common.h and linux/filter.h.
const LOAD_WORD: u16 = 0x20;
const LOAD_HALF: u16 = 0x28;
const LOAD_BYTE: u16 = 0x30;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_SET: u16 = 0x45;
const RETURN: u16 = 0x06;
const CLASS: u16 = 0x07;
const MODE: u16 = 0xe0;
/// Modes of loads whose place is counted from the packet's beginning: absolute, indirect, IP header length.
const IN_PACKET: [u16; 3] = [0x20, 0x40, 0xa0];

const PROTOCOL: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PROTOCOL) as u32;
const PACKET_TYPE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_PKTTYPE) as u32;
const INTERFACE: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_IFINDEX) as u32;
/// The tag that the kernel took off, and whether it did.
const TAG: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_VLAN_TAG) as u32;
const TAG_PRESENT: u32 = (libc::SKF_AD_OFF + libc::SKF_AD_VLAN_TAG_PRESENT) as u32;
/// Behind two MAC addresses and the tag's own number; counted from the link layer's header.
const TAG_IN_ETHERNET: u32 = (libc::SKF_LL_OFF + 14) as u32;
/// IEEE 802.1Q: the lower bits of a tag are the VLAN's number.
const VLAN: u32 = 0x0fff;

/// `PACKET_OUTGOING` of linux/if_packet.h.
const OUTGOING: u32 = 4;
/// `LOOPBACK_IFINDEX` of net/flow.h: the loopback device of each network namespace.
const LOOPBACK: u32 = 1;

const IP: [u32; 2] = [0x0800, 0x86dd];
/// 802.1Q, 802.1ad, and older numbers of the latter.
const TAGS: [u32; 4] = [0x8100, 0x88a8, 0x9100, 0x9200];
const MPLS: u32 = 0x8847;

/// All of a packet, whatever its length.
const WHOLE: u32 = u32::MAX;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Instruction {
    code: u16,
    yes: u8,
    no: u8,
    k: u32,
}

const fn plain(code: u16, k: u32) -> Instruction {
    branch(code, k, 0, 0)
}

const fn branch(code: u16, k: u32, yes: u8, no: u8) -> Instruction {
    Instruction { code, yes, no, k }
}

/// A compiled expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Body(Vec<Instruction>);

impl Body {
    /// Takes no packet.
    pub(super) fn nothing() -> Body {
        Body(vec![plain(RETURN, 0)])
    }

    fn everything() -> Body {
        Body(vec![plain(RETURN, WHOLE)])
    }

    /// Compiles an expression over IP packets.
    ///
    /// # Errors
    /// libpcap's complaint in one line.
    pub(super) fn compile(expression: &str) -> Result<Body, CaptureError> {
        let failed = |reason: String| CaptureError::Filter {
            expression: expression.to_owned(),
            reason: reason.trim().replace('\n', " "),
        };
        let dead = Capture::dead(RAW).map_err(|error| failed(error.to_string()))?;
        let program = dead.compile(expression, true).map_err(|error| {
            failed(match error {
                pcap::Error::PcapError(text) => text,
                other => other.to_string(),
            })
        })?;
        let unknown = || failed("libpcap's program can't be read".to_owned());
        let instructions = program.get_instructions().iter().map(|instruction| {
            // What it is made of is private in the crate, but for its text.
            let text = instruction.to_string();
            parse(&text).ok_or_else(unknown)
        });
        Ok(Body(instructions.collect::<Result<_, _>>()?))
    }

    /// The same for packets whose IP header stands `by` bytes further on.
    fn moved(&self, by: u32) -> Body {
        let moved = self.0.iter().map(|instruction| {
            let loads = matches!(instruction.code & CLASS, 0 | 1);
            match loads && IN_PACKET.contains(&(instruction.code & MODE)) {
                true => Instruction {
                    k: instruction.k.wrapping_add(by),
                    ..*instruction
                },
                false => *instruction,
            }
        });
        Body(moved.collect())
    }
}

/// Code, two jumps and an operand, as numbers.
fn parse(text: &str) -> Option<Instruction> {
    let mut numbers = text.split_ascii_whitespace();
    let mut next = || numbers.next();
    let instruction = Instruction {
        code: next()?.parse().ok()?,
        yes: next()?.parse().ok()?,
        no: next()?.parse().ok()?,
        k: next()?.parse().ok()?,
    };
    match instruction {
        // libpcap would cut at its snapshot length.
        Instruction {
            code: RETURN, k, ..
        } if k > 0 => Some(plain(RETURN, WHOLE)),
        other => Some(other),
    }
}

/// Which packets of which interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program(Vec<Instruction>);

impl Program {
    /// Takes of the interfaces named what their body takes, and of all others what `rest` does; with `vlans` only where
    /// a tag is of one of them. Each packet of the loopback device is seen when it leaves and when it arrives; only the
    /// latter is taken.
    ///
    /// # Errors
    /// If it is too long for the kernel.
    pub(super) fn new(
        groups: &[(Vec<u32>, Body)],
        rest: &Body,
        vlans: &[u16],
    ) -> Result<Program, CaptureError> {
        let program = Program::assemble(groups, rest, vlans, Body::moved);
        if program.0.len() <= LONGEST {
            return Ok(program);
        }
        // Rather all that is tagged twice than nothing.
        let program = Program::assemble(groups, rest, vlans, |_, _| Body::everything());
        match program.0.len() <= LONGEST {
            true => Ok(program),
            false => Err(CaptureError::FilterTooLong {
                instructions: program.0.len(),
            }),
        }
    }

    fn assemble(
        groups: &[(Vec<u32>, Body)],
        rest: &Body,
        vlans: &[u16],
        moved: impl Fn(&Body, u32) -> Body,
    ) -> Program {
        let mut code = Assembly::default();
        let taken = code.label();
        code.push(plain(LOAD_WORD, PACKET_TYPE));
        code.unless(OUTGOING, taken);
        code.push(plain(LOAD_WORD, INTERFACE));
        code.unless(LOOPBACK, taken);
        code.push(plain(RETURN, 0));
        code.here(taken);
        if !vlans.is_empty() {
            tagged(&mut code, vlans);
        }
        code.push(plain(LOAD_WORD, INTERFACE));
        let mut bodies = Vec::new();
        for (interfaces, body) in groups {
            let label = code.label();
            bodies.push((label, body));
            for interface in interfaces {
                code.when(JUMP_EQUAL, *interface, label);
            }
        }
        place(&mut code, rest, &moved);
        for (label, body) in bodies {
            code.here(label);
            place(&mut code, body, &moved);
        }
        Program(code.finish())
    }

    /// As the socket takes it.
    pub(super) fn instructions(&self) -> Vec<SockFilter> {
        let convert = |i: &Instruction| SockFilter::new(i.code, i.yes, i.no, i.k);
        self.0.iter().map(convert).collect()
    }
}

/// Lets pass what has a tag of one of these VLANs, be it the outer, which the kernel has most often taken off, or one of
/// the two that may stand behind it.
fn tagged(code: &mut Assembly, vlans: &[u16]) {
    let (in_packet, inner, outgoing, yes) =
        (code.label(), code.label(), code.label(), code.label());
    let vlans: Vec<u32> = vlans.iter().map(|vlan| u32::from(*vlan)).collect();
    let compare = |code: &mut Assembly, load: Instruction| {
        code.push(load);
        code.push(plain(AND, VLAN));
        code.when_any(&vlans, yes);
    };
    code.push(plain(LOAD_WORD, TAG_PRESENT));
    code.when(JUMP_EQUAL, 0, in_packet);
    compare(code, plain(LOAD_WORD, TAG));

    code.here(in_packet);
    code.push(plain(LOAD_WORD, PROTOCOL));
    let (first, no) = (code.label(), code.label());
    code.when_any(&TAGS, first);
    code.jump(no);
    code.here(first);
    code.push(plain(LOAD_WORD, PACKET_TYPE));
    code.when(JUMP_EQUAL, OUTGOING, outgoing);
    compare(code, plain(LOAD_HALF, 0));
    code.push(plain(LOAD_HALF, 2));
    code.when_any(&TAGS, inner);
    code.jump(no);
    code.here(inner);
    compare(code, plain(LOAD_HALF, 4));
    code.jump(no);
    // Of a packet that leaves, only what is behind the tag is shown.
    code.here(outgoing);
    compare(code, plain(LOAD_HALF, TAG_IN_ETHERNET));
    code.here(no);
    code.push(plain(RETURN, 0));
    code.here(yes);
}

/// Finds the IP header, at the beginning or behind one or two tags or labels, and lets the body decide there.
fn place(code: &mut Assembly, body: &Body, moved: &impl Fn(&Body, u32) -> Body) {
    if *body == Body::nothing() {
        code.push(plain(RETURN, 0));
        return;
    }
    let places = [code.label(), code.label(), code.label()];
    let [at_once, behind_one, behind_two] = places;
    let (tag, second_tag, label) = (code.label(), code.label(), code.label());
    code.push(plain(LOAD_WORD, PROTOCOL));
    code.when_any(&IP, at_once);
    code.when_any(&TAGS, tag);
    code.when(JUMP_EQUAL, MPLS, label);
    code.push(plain(RETURN, 0));

    code.here(tag);
    // Of a packet that leaves, a tag that the card doesn't add stands before what is shown.
    code.push(plain(LOAD_WORD, PACKET_TYPE));
    code.when(JUMP_EQUAL, OUTGOING, at_once);
    code.push(plain(LOAD_HALF, 2));
    code.when_any(&IP, behind_one);
    code.when_any(&TAGS, second_tag);
    code.push(plain(RETURN, 0));
    code.here(second_tag);
    code.push(plain(LOAD_HALF, 6));
    code.when_any(&IP, behind_two);
    code.push(plain(RETURN, 0));

    // RFC 3032 §2.1: the last bit of the third byte marks the last label.
    code.here(label);
    code.push(plain(LOAD_BYTE, 2));
    code.when(JUMP_SET, 1, behind_one);
    code.push(plain(LOAD_BYTE, 6));
    code.when(JUMP_SET, 1, behind_two);
    code.push(plain(RETURN, 0));

    for (place, by) in places.into_iter().zip([0, 4, 8]) {
        code.here(place);
        let body = if by == 0 { body } else { &moved(body, by) };
        code.extend(&body.0);
    }
}

/// A program whose jumps are filled in at the end.
#[derive(Default)]
struct Assembly {
    code: Vec<Instruction>,
    /// Where each label stands, once it is known.
    labels: Vec<usize>,
    jumps: Vec<(usize, Label)>,
}

#[derive(Clone, Copy)]
struct Label(usize);

impl Assembly {
    fn label(&mut self) -> Label {
        self.labels.push(0);
        Label(self.labels.len() - 1)
    }

    fn here(&mut self, label: Label) {
        self.labels[label.0] = self.code.len();
    }

    fn push(&mut self, instruction: Instruction) {
        self.code.push(instruction);
    }

    fn extend(&mut self, instructions: &[Instruction]) {
        self.code.extend_from_slice(instructions);
    }

    /// Conditional jumps reach only 255 instructions, so an unconditional one takes over.
    fn when(&mut self, test: u16, value: u32, label: Label) {
        self.push(branch(test, value, 0, 1));
        self.jump(label);
    }

    fn when_any(&mut self, values: &[u32], label: Label) {
        for value in values {
            self.when(JUMP_EQUAL, *value, label);
        }
    }

    fn unless(&mut self, value: u32, label: Label) {
        self.push(branch(JUMP_EQUAL, value, 1, 0));
        self.jump(label);
    }

    fn jump(&mut self, label: Label) {
        self.jumps.push((self.code.len(), label));
        self.push(plain(JUMP, 0));
    }

    fn finish(mut self) -> Vec<Instruction> {
        for (at, label) in self.jumps {
            // All labels stand behind the jumps to them.
            self.code[at].k = (self.labels[label.0] - at - 1) as u32;
        }
        self.code
    }
}

#[cfg(test)]
#[path = "program_tests.rs"]
mod tests;
