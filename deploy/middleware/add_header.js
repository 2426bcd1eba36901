#!/usr/bin/env node
// A middleware for Node.js: adds a header to each request, and tells on standard error how replays were answered.
//
// Each line of standard input is a message in hexadecimal digits: "KIND ID TIMESTAMP LATENCY\n" and the HTTP message.
// Use: reprise gor … --output-http-track-response --middleware deploy/middleware/add_header.js
'use strict';

const REQUEST = 0x31;
const REPLAYED = 0x33;
const HEADER = Buffer.from('X-Replayed-By: reprise\r\n');

// Lines may be long, and come in pieces.
let pieces = [];
const statuses = new Map();

process.stdin.on('data', (chunk) => {
  let start = 0;
  for (let end = chunk.indexOf(10); end >= 0; end = chunk.indexOf(10, start)) {
    pieces.push(chunk.subarray(start, end));
    take(Buffer.concat(pieces));
    pieces = [];
    start = end + 1;
  }
  pieces.push(chunk.subarray(start));
});

process.stdin.on('end', () => {
  for (const [status, count] of statuses) console.error(`replays answered ${status}: ${count}`);
});

function take(line) {
  const message = Buffer.from(line.toString('latin1'), 'hex');
  if (message[0] === REQUEST) {
    // Behind the request line, which stands behind the header's line.
    const at = message.indexOf('\r\n', message.indexOf(10)) + 2;
    if (at >= 2) return give(Buffer.concat([message.subarray(0, at), HEADER, message.subarray(at)]));
  } else if (message[0] === REPLAYED) {
    const status = message.subarray(message.indexOf(10) + 10, message.indexOf(10) + 13).toString('latin1');
    statuses.set(status, (statuses.get(status) || 0) + 1);
  }
  give(message);
}

// When standard output can't keep up, so can't we: the next lines wait in the pipe.
function give(message) {
  if (!process.stdout.write(message.toString('hex') + '\n')) {
    process.stdin.pause();
    process.stdout.once('drain', () => process.stdin.resume());
  }
}
