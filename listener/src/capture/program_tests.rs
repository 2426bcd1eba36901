//! Programs in the real kernel: it applies them to datagrams between two unix sockets, too.

use std::os::unix::net::UnixDatagram;

use etherparse::PacketBuilder;

use super::*;

/// Whether the kernel lets a packet pass, whole.
fn kernel_passes(instructions: &[Instruction], packet: &[u8]) -> bool {
    let (sender, receiver) = UnixDatagram::pair().unwrap();
    receiver.set_nonblocking(true).unwrap();
    let program = Program(instructions.to_vec());
    let socket = socket2::SockRef::from(&receiver);
    socket.attach_filter(&program.instructions()).unwrap();
    // Without one, the datagram would be refused for want of a reader.
    let _ = sender.send(packet);
    let mut got = vec![0; packet.len() + 1];
    match receiver.recv(&mut got) {
        Ok(length) => {
            assert_eq!(length, packet.len(), "cut");
            true
        }
        Err(_) => false,
    }
}

fn tcp_to(port: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    PacketBuilder::ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .tcp(40_000, port, 7, 1000)
        .options_raw(&[1, 1, 1, 1])
        .unwrap()
        .write(&mut bytes, b"GET /")
        .unwrap();
    bytes
}

#[test]
fn a_moved_program_decides_as_it_would_have() {
    let body =
        Body::compile("tcp dst port 80 and tcp[((tcp[12] & 240) >> 2):4] = 0x47455420").unwrap();
    for by in [0_usize, 4, 8] {
        let program = body.moved(by as u32);
        let before = |packet: Vec<u8>| [vec![0xff; by], packet].concat();
        assert!(kernel_passes(&program.0, &before(tcp_to(80))), "{by}");
        assert!(!kernel_passes(&program.0, &before(tcp_to(81))), "{by}");
    }
    assert!(!kernel_passes(&body.moved(4).0, &tcp_to(80)));
}

#[test]
fn whole_packets_pass_however_long() {
    let body = Body::compile("tcp").unwrap();
    let returns = body.0.iter().filter(|i| i.code == RETURN && i.k > 0);
    assert!(returns.clone().count() > 0);
    assert!(returns.into_iter().all(|i| i.k == WHOLE));
}

#[test]
fn a_wrong_expression_is_told_in_one_line() {
    for wrong in ["tcp port", "vlan 10", "no such thing", "port 99999"] {
        let error = Body::compile(wrong).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("cannot compile the filter {wrong:?}: ")),
            "{error}"
        );
        assert_eq!(error.lines().count(), 1, "{error}");
    }
}

/// The kernel checks that each jump leads somewhere and that each way ends.
#[test]
fn the_kernel_takes_programs_for_many_interfaces() {
    let (_sender, receiver) = UnixDatagram::pair().unwrap();
    let socket = socket2::SockRef::from(&receiver);
    let body = Body::compile("tcp dst port 80 or 8080").unwrap();
    for interfaces in [0, 1, 3, 300, 1500] {
        let groups = [
            ((2..interfaces + 2).collect(), body.clone()),
            (vec![7000], Body::nothing()),
        ];
        let vlans: Vec<u16> = (0..interfaces.min(50) as u16).collect();
        for rest in [Body::nothing(), body.clone()] {
            let program = Program::new(&groups, &rest, &vlans).unwrap();
            socket.attach_filter(&program.instructions()).unwrap();
        }
    }
    let too_many = [((0..5000).collect(), body)];
    let error = Program::new(&too_many, &Body::nothing(), &[]).unwrap_err();
    assert!(
        error.to_string().contains("the kernel takes 4096"),
        "{error}"
    );
}
