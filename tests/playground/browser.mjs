// Opens a page in headless Chromium and does steps in it. stdin: {chromium, profile, url, width, height, dark, steps};
// a step is {do}, {eval} (its value is an answer), {wait} (until it is true), {shot: file} or {open: url}; what is done or
// waited for may lead to another page, and an answer lost on the way there counts as none. stdout: {answers,
// problems: what the console, the page or a timeout said, requests: every address that was asked for}.

import { spawn } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";

const asked = JSON.parse(readFileSync(0, "utf8"));
const flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", "--disable-dev-shm-usage"];
const quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"];
const browser = spawn(asked.chromium, [...flags, ...quiet, `--user-data-dir=${asked.profile}`, "about:blank"], {
  stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"],
});
const [problems, requests, answers] = [[], [], []];
const waiting = new Map();
let [count, buffer] = [0, ""];

browser.stdio[4].on("data", (data) => {
  buffer += data;
  const messages = buffer.split("\0");
  buffer = messages.pop();
  for (const message of messages) heard(JSON.parse(message));
});

function heard({ id, result, error, method, params }) {
  if (id) {
    const { done, fail } = waiting.get(id);
    if (error) fail(new Error(error.message));
    else done(result);
  } else if (method === "Runtime.exceptionThrown") {
    const { text, exception } = params.exceptionDetails;
    problems.push(`${text} ${exception?.description ?? ""}`);
  } else if (method === "Runtime.consoleAPICalled" && ["error", "warning"].includes(params.type)) {
    problems.push(params.args.map((arg) => arg.value ?? arg.description).join(" "));
  } else if (method === "Log.entryAdded" && ["error", "warning"].includes(params.entry.level)) {
    problems.push(params.entry.text);
  } else if (method === "Network.requestWillBeSent") {
    requests.push(params.request.url);
  }
}

function send(method, params = {}, sessionId = undefined) {
  const id = ++count;
  browser.stdio[3].write(`${JSON.stringify({ id, method, params, sessionId })}\0`);
  return new Promise((done, fail) => waiting.set(id, { done, fail }));
}

try {
  const { targetId } = await send("Target.createTarget", { url: "about:blank" });
  const { sessionId } = await send("Target.attachToTarget", { targetId, flatten: true });
  const call = (method, params) => send(method, params, sessionId);
  for (const domain of ["Page", "Runtime", "Log", "Network"]) await call(`${domain}.enable`);
  const screen = async ({ width = 1280, height = 900, dark = false }) => {
    await call("Emulation.setDeviceMetricsOverride", { width, height, deviceScaleFactor: 1, mobile: false });
    const features = [{ name: "prefers-color-scheme", value: dark ? "dark" : "light" }];
    await call("Emulation.setEmulatedMedia", { features });
  };
  const evaluate = async (expression, mayLeave = false) => {
    const { result, exceptionDetails } = await call("Runtime.evaluate", {
      expression, returnByValue: true, awaitPromise: true, userGesture: true,
    }).catch((error) => {
      if (mayLeave && /navigated or closed|context was destroyed|find context/.test(error.message)) return { result: {} };
      throw error;
    });
    if (exceptionDetails) problems.push(`${expression}: ${exceptionDetails.exception?.description}`);
    return result.value;
  };
  await screen(asked);
  await call("Page.navigate", { url: asked.url });
  for (const step of asked.steps) {
    if (step.open) await call("Page.navigate", { url: step.open });
    if (step.screen) await screen(step.screen);
    if (step.do) await evaluate(step.do, true);
    if (step.eval) answers.push((await evaluate(step.eval)) ?? null);
    if (step.wait) {
      const end = Date.now() + (asked.patience ?? 120000);
      while (!(await evaluate(step.wait, true)) && Date.now() < end) await new Promise((done) => setTimeout(done, 30));
      if (Date.now() >= end) problems.push(`timed out: ${step.wait}`);
    }
    if (step.shot) {
      const clip = step.full && (await call("Page.getLayoutMetrics")).cssContentSize;
      const { data } = await call("Page.captureScreenshot", clip
        ? { captureBeyondViewport: true, clip: { ...clip, height: Math.min(clip.height, 6000), scale: 1 } } : {});
      writeFileSync(step.shot, Buffer.from(data, "base64"));
    }
  }
  process.stdout.write(JSON.stringify({ answers, problems, requests }));
} finally {
  browser.kill("SIGKILL");
}
