// The peer of bench/fanout.py: one publisher and any number of readers, by WebSocket (`ws`) and by SSE.
// Each message is made once for all its readers. Commands come on stdin; answers leave on stdout.
'use strict';
const http = require('http');
const { WebSocketServer } = require('ws');

const WINDOW = 32;
const PAD = 'x'.repeat(40);
const sockets = new Set();
const streams = new Set();
const server = http.createServer((request, response) => {
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  response.write(':\n\n');
  streams.add(response);
  response.on('close', () => streams.delete(response));
});
new WebSocketServer({ server }).on('connection', (socket) => {
  sockets.add(socket);
  socket.on('close', () => sockets.delete(socket));
});

let seq = 0;
let sent = 0;
let credit = 0;

function publish() {
  seq += 1;
  sent += 1;
  const stamp = String(process.hrtime.bigint()).padStart(18, '0');
  const data = `{"part":"bench","detail":"@${stamp} ${PAD}"}`;
  const time = new Date().toISOString();
  const id = '00000000-0000-4000-8000-000000000000';
  const text =
    `{"seq":${seq},"id":"${id}","type":"system.degraded","time":"${time}",` +
    `"agentId":null,"taskId":null,"data":${data}}`;
  if (sockets.size) {
    const message = Buffer.from(text);
    for (const socket of sockets) socket.send(message, { binary: false });
  }
  if (streams.size) {
    const frame = Buffer.from(`id: ${seq}\nevent: system.degraded\ndata: ${text}\n\n`);
    for (const stream of streams) stream.write(frame);
  }
}

function run(rate, seconds) {
  const began = process.hrtime.bigint();
  sent = credit = 0;
  const step = () => {
    const passed = Number(process.hrtime.bigint() - began) / 1e9;
    if (passed >= seconds) {
      console.log(`sent ${sent}`);
      return;
    }
    while (rate ? sent < rate * passed : sent - credit < WINDOW) publish();
    if (rate) setTimeout(step, 1);
    else setImmediate(step);
  };
  step();
}

let pending = '';
process.stdin.on('data', (chunk) => {
  const lines = (pending + chunk).split('\n');
  pending = lines.pop();
  for (const line of lines) {
    const [word, first, second] = line.split(' ');
    if (word === 'run') run(Number(first), Number(second));
    else credit = Number(word);
  }
});
process.stdin.on('end', () => process.exit(0));
server.listen(0, '127.0.0.1', 1024, () => console.log(`port ${server.address().port}`));
