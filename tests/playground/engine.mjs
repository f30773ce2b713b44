// Runs the page's own modules on the requests of a test. stdin: {static, header, weights, simd, requests}; each request
// is {edits, text, other, do, …}, and its answer is one value of the list on stdout, or {error}.

import { setFlagsFromString } from "node:v8";
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const { static: folder, models, requests } = JSON.parse(readFileSync(0, "utf8"));
const load = (name) => import(pathToFileURL(`${folder}/engine/${name}.js`));
const { Session } = await load("session");
const state = await load("state");

if (models.some(({ fused }) => fused)) setFlagsFromString("--experimental-wasm-relaxed-simd"); // newer node: on by itself
const sessions = models.map(({ header, weights, simd }) => {
  return new Session(JSON.parse(readFileSync(header, "utf8")), new Uint8Array(readFileSync(weights)), { simd });
});

const plain = (rows) => rows.map((row) => Array.from(row));
const actions = {
  logits: (session, { text }) => plain(session.logits(text.tokens)),
  write: (session, { texts, length, ...rest }) => {
    return session.write(texts, { length, ...rest }).map(({ tokens, probability }) => ({ tokens, probability }));
  },
  patterns: (session, { text, layer, head }) => plain(session.patterns(text.tokens, layer, head)),
  lens: (session, { text }) => session.lens(text.tokens).map(plain),
  activation: (session, { text, site, layer }) => plain(session.activation(text.tokens, site, layer)),
  at: (session, { text, sites, position }) => plain(session.activationsAt(text.tokens, position, sites)),
  python: (session, { state: shown }) => state.python(session.header, shown),
  restored: (session, { state: shown }) => state.fromHash(state.toHash(shown), session.header),
  hash: (session, { hash }) => state.fromHash(hash, session.header),
  toHash: (session, { state: shown }) => state.toHash(shown),
  speed: (session, request) => {
    const start = process.cpuUsage();
    session.setEdits(request.edits, request.text, null);
    actions[request.of](session, request);
    const used = process.cpuUsage(start);
    return (used.user + used.system) / 1000;
  },
};

const answers = requests.map((request) => {
  const session = sessions[request.model ?? 0];
  try {
    if (request.edits && request.do !== "speed") session.setEdits(request.edits, request.text, request.other ?? null);
    return actions[request.do](session, request);
  } catch (error) {
    return { error: error.message, stack: request.expectError ? "" : error.stack };
  }
});
process.stdout.write(JSON.stringify(answers));
