//! Flags for the whole process, and inputs and outputs without settings.

use super::Kind::{Level, Maybe, OneOf, Size, Switch, Text, Time};
use super::{Flag, noted, on};

pub(super) const GLOBAL: &[Flag] = &[
    on("help", Switch, "", "Print this and exit; -h for short"),
    on("version", Switch, "", "Print the version and exit"),
    on(
        "verbose",
        Level,
        "0",
        "Say more on stderr: 1 what happens, 2 each connection, 3 all",
    ),
    on(
        "stats",
        Switch,
        "false",
        "Print the counters of all inputs and outputs on stderr while running",
    ),
    on(
        "exit-after",
        Time,
        "0",
        "Stop after this time, as Ctrl-C does: what is under way is finished; 0 for never",
    ),
    on(
        "split-output",
        Switch,
        "false",
        "Give each request to one output in turn, and its response to the same one, instead of to all",
    ),
    on(
        "recognize-tcp-sessions",
        Switch,
        "false",
        "With --split-output, keep what came on one connection together and in order",
    ),
    on(
        "copy-buffer-size",
        Size,
        "24mb",
        "A larger message is dropped whole and counted",
    ),
    on(
        "prettify-http",
        Switch,
        "false",
        "Join chunks, unpack gzip and set Content-Length before messages reach outputs",
    ),
    on(
        "middleware",
        Text("COMMAND"),
        "",
        "Run this command, arguments may be quoted; messages go through its stdin and stdout as lines of hex",
    ),
    on(
        "json",
        Switch,
        "false",
        "Print the closing summary as a line of JSON",
    ),
    on(
        "print-config",
        Switch,
        "false",
        "Print what the command line is in a cluster, targets and commands, and exit",
    ),
    on(
        "admin",
        Text("ADDR"),
        "127.0.0.1:0",
        "Metrics, health and ledger over HTTP; port 0 is any, which --verbose tells",
    ),
    on(
        "log",
        Text("LEVEL"),
        "",
        "Log level, or directives as info,reprise_relay=debug, instead of --verbose",
    ),
    on(
        "log-format",
        OneOf(&["text", "json"]),
        "text",
        "How log lines on stderr look",
    ),
    noted("debug", Switch, "--verbose 2 says as much"),
    noted(
        "http-pprof",
        Text("ADDR"),
        "nothing is served for pprof; --admin ADDR has metrics of what the process does, and perf top -p PID tells where its time goes",
    ),
    noted(
        "cpuprofile",
        Text("FILE"),
        "no profile is written; perf record -g -p PID makes one of a running process",
    ),
    noted(
        "memprofile",
        Text("FILE"),
        "no profile is written; memory is bounded, and the metrics tell what of it is used",
    ),
];

pub(super) const SIMPLE: &[Flag] = &[
    on(
        "input-dummy",
        Maybe("|LIMIT"),
        "",
        "Make a request a second, GET /; repeatable",
    ),
    on(
        "output-stdout",
        Switch,
        "false",
        "Print messages as they stand in a recording",
    ),
    on(
        "output-null",
        Switch,
        "false",
        "Take messages and do nothing, to measure what comes before",
    ),
];
