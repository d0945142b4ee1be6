// Greets whoever the body names, and counts its calls: it is one process for all of them.
'use strict';

const http = require('node:http');

let calls = 0;

const server = http.createServer((request, response) => {
  const pieces = [];
  request.on('data', (piece) => pieces.push(piece));
  request.on('end', () => {
    const name = Buffer.concat(pieces).toString().trim() || 'world';
    calls += 1;
    const text = `Hello, ${name}, from Node.js, call ${calls} (${request.method} ${request.url})\n`;
    response.writeHead(200, {
      'Content-Type': 'text/plain; charset=utf-8',
      'Content-Length': Buffer.byteLength(text),
    });
    response.end(text);
  });
});

// Longer than the watchdog keeps a connection.
server.keepAliveTimeout = 900_000;
server.listen(3000, '127.0.0.1');
process.on('SIGTERM', () => process.exit(0));
