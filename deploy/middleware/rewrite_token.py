#!/usr/bin/env python3
"""A middleware that replaces session tokens of production by those that staging gave out.

Production answers a login with a token, and later requests bear it. Staging answers the replayed login with a token of its
own. So: remember by a request's id which token production gave out (message 2), pair it with what the replay was given
(message 3), and rewrite it in later requests (message 1). Needs --input-raw-track-response and --output-http-track-response.

The token is the value of the header X-Token in answers and requests; write your own find() for others.
Use: reprise gor ... --middleware deploy/middleware/rewrite_token.py
"""

import binascii
import re
import sys
from collections import OrderedDict

# What is remembered: ids whose second half is still to come, and pairs of tokens.
MOST = 100_000

TOKEN = re.compile(rb"(?im)^(X-Token: *)([^\r\n]+)")


def find(head):
    match = TOKEN.search(head)
    return match.group(2).strip() if match else None


def remember(table, key, value):
    table[key] = value
    if len(table) > MOST:
        table.popitem(last=False)


def main():
    originals = OrderedDict()  # id -> production's token
    replays = OrderedDict()  # id -> staging's token
    tokens = OrderedDict()  # production's token -> staging's
    out = sys.stdout.buffer
    for line in sys.stdin.buffer:
        message = binascii.unhexlify(line.rstrip(b"\n"))
        header, payload = message.split(b"\n", 1)
        kind, key = header.split(b" ", 2)[:2]
        head, empty, body = payload.partition(b"\r\n\r\n")
        token = find(head)
        if kind == b"1" and token in tokens:
            head = TOKEN.sub(lambda m: m.group(1) + tokens[token], head)
            line = binascii.hexlify(header + b"\n" + head + empty + body) + b"\n"
        elif kind == b"2" and token:
            remember(originals, key, token)
        elif kind == b"3" and token:
            remember(replays, key, token)
        if key in originals and key in replays:
            remember(tokens, originals.pop(key), replays.pop(key))
        out.write(line)
        out.flush()


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, KeyboardInterrupt):
        pass
