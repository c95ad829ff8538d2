// Run the base's scripts in the candidate's checkout; runs inside a sandbox, as `node -e TEXT`.
// The candidate's package.json keeps what the code under test needs of it; what says how it is checked is the base's.
// What was run is read from the runner's own results, and told after its end under a name that only this process knows.
const { spawnSync } = require("node:child_process");
const fs = require("node:fs");
const path = require("node:path");

const place = path.resolve(".orchestrator-gate");
const order = JSON.parse(fs.readFileSync(path.join(place, "order.json"), "utf8"));
fs.rmSync(path.join(place, "order.json"));

function complain(text) {
  console.error(`orchestrator: ${text}`);
}

function restoreManifest() {
  let manifest = {};
  try {
    manifest = JSON.parse(fs.readFileSync("package.json", "utf8"));
  } catch (error) {
    complain(`package.json of the candidate cannot be read: ${error.message}`);
  }
  if (manifest === null || typeof manifest !== "object" || Array.isArray(manifest)) manifest = {};
  const before = JSON.stringify(manifest);
  for (const [key, value] of Object.entries(order.settings)) {
    if (value === null) delete manifest[key];
    else manifest[key] = value;
  }
  if (JSON.stringify(manifest) === before) return;
  fs.rmSync("package.json", { force: true, recursive: true });
  fs.writeFileSync("package.json", JSON.stringify(manifest, null, 2));
}

// Tools that the candidate brings itself would judge it. What a set-up made is no candidate's.
function refuseOwnTools() {
  if (order.has_modules || !fs.existsSync("node_modules")) return;
  const made = fs.existsSync(".git/info/made") ? fs.readFileSync(".git/info/made", "utf8") : "";
  if (/^node_modules\/?$/m.test(made)) return;
  complain("the candidate adds node_modules, which would take the place of the project's tools");
  process.exit(125);
}

function readJson(name) {
  try {
    return JSON.parse(fs.readFileSync(path.join(place, name), "utf8"));
  } catch {
    return null;
  }
}

function results() {
  const told = readJson("results.json");
  if (told === null || typeof told !== "object") return { broken: "no results" };
  if (order.runner === "node") return told;
  if (order.runner === "mocha") {
    for (const test of told.failures ?? []) console.log(`${test.fullTitle}\n  ${test.err?.stack ?? test.err?.message}`);
    const { passes, failures, pending } = told.stats ?? {};
    return { ran: passes + failures, failed: failures, skipped: pending };
  }
  if (told.numTotalTestSuites === 0) return { broken: "no results" };
  const ran = told.numPassedTests + told.numFailedTests;
  // A file that cannot be loaded has no failed test.
  const unloaded = told.success === false && told.numFailedTests === 0 && told.numFailedTestSuites > 0;
  const failed = told.numFailedTests + (unloaded ? told.numFailedTestSuites : 0);
  return { ran, failed, skipped: told.numPendingTests + (told.numTodoTests ?? 0) };
}

refuseOwnTools();
restoreManifest();
const env = {
  ...process.env,
  PATH: `${process.env.PATH}:${process.cwd()}/node_modules/.bin`,
  ORCHESTRATOR_GATE: place,
  npm_lifecycle_event: order.name,
};
const ended = spawnSync("/bin/sh", ["-c", order.script], { stdio: ["ignore", "inherit", "inherit"], env });
if (order.nonce !== null) {
  const report = results();
  if (order.coverage) report.coverage ??= readJson("coverage/coverage-summary.json")?.total?.lines?.pct;
  fs.writeSync(1, `\n\x1e${order.nonce} ${JSON.stringify(report)}\n`);
}
if (ended.signal) process.kill(process.pid, ended.signal);
process.exit(ended.status ?? 1);
