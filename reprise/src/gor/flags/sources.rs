//! Flags of packets, files and connections.

use super::Kind::{Count, Each, OneOf, Size, Switch, Text, Time};
use super::{Flag, noted, on, refused};

pub(super) const RAW: &[Flag] = &[
    on(
        "input-raw",
        Each("ADDR[|LIMIT]"),
        "",
        "Capture requests to :80, :80,8080, :, IP:80, localhost:80, eth0:80, eth*:80, [::1]:80, FILE.pcap[:80] or k8s://[NAMESPACE/]KIND/NAME:80 (KIND is pod, deployment, daemonset, labelSelector or fieldSelector)",
    ),
    on(
        "input-raw-track-response",
        Switch,
        "false",
        "Capture production's responses too",
    ),
    on(
        "input-raw-engine",
        OneOf(&["libpcap", "raw_socket", "af_packet", "pcap_file", "vxlan"]),
        "libpcap",
        "Where packets come from: pcap_file reads --input-raw as a file, vxlan looks into VXLAN; all others are libpcap here",
    ),
    on(
        "input-raw-protocol",
        OneOf(&["http", "binary"]),
        "http",
        "What is on the captured connections; binary is refused: only HTTP is captured",
    ),
    on(
        "input-raw-expire",
        Time,
        "2s",
        "A message of which nothing came for so long is not waited for",
    ),
    on(
        "input-raw-realip-header",
        Text("NAME"),
        "",
        "Put the client's address into this header of captured requests",
    ),
    on(
        "input-raw-bpf-filter",
        Text("EXPR"),
        "",
        "Filter packets by this expression (pcap-filter(7)) instead of the one made of --input-raw",
    ),
    on(
        "input-raw-buffer-size",
        Size,
        "0",
        "Kernel memory for packets that wait to be read; 0 for the usual size",
    ),
    on(
        "input-raw-promisc",
        Switch,
        "false",
        "Capture what is meant for other hosts too",
    ),
    noted(
        "input-raw-stats",
        Switch,
        "the summary, and the metrics at --admin, have what was captured and what was not",
    ),
    on(
        "input-raw-ignore-interface",
        Each("NAME"),
        "",
        "Leave this interface out; a name or a pattern as docker*",
    ),
    on(
        "input-raw-vlan-vid",
        Each("N"),
        "",
        "Only packets of this VLAN, 0 to 4094, or of another one given",
    ),
    on(
        "input-raw-vxlan-port",
        Count,
        "4789",
        "With --input-raw-engine vxlan: the UDP port of its packets",
    ),
    on(
        "input-raw-vxlan-vni",
        Each("N"),
        "",
        "With --input-raw-engine vxlan: only this network, or with -N all but that one",
    ),
    noted(
        "input-raw-vlan",
        Switch,
        "VLAN tags are always looked behind",
    ),
    noted(
        "input-raw-allow-incomplete",
        Switch,
        "a message with a hole is counted and left out, never sent in part",
    ),
    noted(
        "input-raw-override-snaplen",
        Switch,
        "packets are always captured whole",
    ),
    noted(
        "input-raw-timestamp-type",
        Text("TYPE"),
        "packets bear the kernel's time",
    ),
    noted(
        "input-raw-buffer-timeout",
        Time,
        "packets are handed over within milliseconds",
    ),
    noted(
        "input-raw-k8s-nomatch-nocap",
        Switch,
        "where no pod matches, nothing is captured in any case",
    ),
    refused(
        "input-raw-monitor",
        Switch,
        "capture frames of a radio with tcpdump -I -w FILE.pcap and give that file to --input-raw",
    ),
];

pub(super) const FILES: &[Flag] = &[
    on(
        "input-file",
        Each("PATH[|LIMIT]"),
        "",
        "Replay a recording at production's pace; a path or a pattern, .gz and .zst are unpacked, further paths may follow. |200% is twice as fast",
    ),
    on("input-file-loop", Switch, "false", "Begin again at the end"),
    on(
        "input-file-max-wait",
        Time,
        "0",
        "No pause is longer, after the speed; 0 for no bound",
    ),
    on(
        "input-file-dry-run",
        Switch,
        "false",
        "Print what is in the files and how long a replay would take, and exit",
    ),
    noted(
        "input-file-read-depth",
        Count,
        "requests are put in order as far as they are a second, 1,024 requests or 8 MiB out of place",
    ),
    on(
        "output-file",
        Each("PATH[|LIMIT]"),
        "",
        "Record into files; %Y %m %d %H %M %S %NS %r %t %i are filled in, .gz and .zst are packed",
    ),
    on(
        "output-file-append",
        Switch,
        "false",
        "Go on in the file of that name instead of numbering chunks",
    ),
    on(
        "output-file-flush-interval",
        Time,
        "1s",
        "The longest that a record waits before it is written",
    ),
    on(
        "output-file-size-limit",
        Size,
        "32mb",
        "A chunk of this size is followed by the next; 0 for no bound",
    ),
    on(
        "output-file-queue-limit",
        Count,
        "256",
        "So is one with so many records; 0 for no bound",
    ),
    on(
        "output-file-max-size-limit",
        Size,
        "1tb",
        "What this process may write in all; then this output stops, the others go on. 0 for no bound",
    ),
    noted(
        "output-file-buffer",
        Text("DIR"),
        "nothing is staged: recordings are written where they belong",
    ),
];

pub(super) const NETWORK: &[Flag] = &[
    on(
        "input-tcp",
        Each("ADDR[|LIMIT]"),
        "",
        "Take messages from --output-tcp of other processes at [HOST]:PORT",
    ),
    on("input-tcp-secure", Switch, "false", "Over TLS"),
    on(
        "input-tcp-certificate",
        Text("FILE"),
        "",
        "With --input-tcp-secure: the certificate, PEM",
    ),
    on(
        "input-tcp-certificate-key",
        Text("FILE"),
        "",
        "With --input-tcp-secure: its key, PEM",
    ),
    on(
        "output-tcp",
        Each("HOST:PORT[|LIMIT]"),
        "",
        "Give messages to --input-tcp of another process",
    ),
    on("output-tcp-secure", Switch, "false", "Over TLS"),
    on(
        "output-tcp-skip-verify",
        Switch,
        "false",
        "With --output-tcp-secure: take any certificate",
    ),
    on(
        "output-tcp-sticky",
        Switch,
        "false",
        "What has one id goes over one connection",
    ),
    on(
        "output-tcp-workers",
        Count,
        "10",
        "Connections to each address",
    ),
    on(
        "output-tcp-stats",
        Switch,
        "false",
        "Print this output's counters on stderr while running",
    ),
    on(
        "input-http",
        Each("ADDR[|LIMIT]"),
        "",
        "Take each request that arrives at [HOST]:PORT as captured, and answer it at once",
    ),
    on(
        "output-ws",
        Each("URL[|LIMIT]"),
        "",
        "Give messages to a WebSocket server, ws://[USER:PASSWORD@]HOST[:PORT]/PATH or wss://",
    ),
    on(
        "output-ws-skip-verify",
        Switch,
        "false",
        "With wss: take any certificate",
    ),
    on(
        "output-ws-sticky",
        Switch,
        "false",
        "What has one id goes over one connection",
    ),
    on(
        "output-ws-workers",
        Count,
        "10",
        "Connections to each address",
    ),
    on(
        "output-ws-stats",
        Switch,
        "false",
        "Print this output's counters on stderr while running",
    ),
    on(
        "output-binary",
        Each("HOST:PORT[|LIMIT]"),
        "",
        "Send the bare bytes of requests; what is answered is thrown away",
    ),
    on(
        "output-binary-workers",
        Count,
        "0",
        "Connections; 0 for ten",
    ),
    noted(
        "output-binary-timeout",
        Time,
        "nobody waits for what the server answers; it is read and thrown away",
    ),
    noted(
        "output-binary-response-buffer",
        Size,
        "what the server answers is read and thrown away",
    ),
    noted(
        "output-binary-track-response",
        Switch,
        "what the server answers is read and thrown away",
    ),
    noted("output-binary-debug", Switch, "--verbose 2 says as much"),
];
