// Run the base's test scripts in the candidate's checkout; runs inside a sandbox, as `node -e TEXT BASE`.
// The candidate's package.json keeps what the code under test needs of it; what says how tests are run is the base's.
const { spawnSync } = require("node:child_process");
const fs = require("node:fs");

const { scripts, settings } = JSON.parse(process.argv[1]);
let manifest = {};
try {
  manifest = JSON.parse(fs.readFileSync("package.json", "utf8"));
} catch (error) {
  console.error(`orchestrator: package.json of the candidate cannot be read: ${error.message}`);
}
if (manifest === null || typeof manifest !== "object" || Array.isArray(manifest)) manifest = {};
for (const [key, value] of Object.entries(settings)) {
  if (value === null) delete manifest[key];
  else manifest[key] = value;
}
fs.rmSync("package.json", { force: true, recursive: true });
fs.writeFileSync("package.json", JSON.stringify(manifest, null, 2));

const env = { ...process.env, PATH: `${process.env.PATH}:${process.cwd()}/node_modules/.bin` };
for (const [name, script] of scripts) {
  env.npm_lifecycle_event = name;
  env.npm_lifecycle_script = script;
  const ended = spawnSync("/bin/sh", ["-c", script], { stdio: ["ignore", "inherit", "inherit"], env });
  if (ended.signal) process.kill(process.pid, ended.signal);
  if (ended.status !== 0) process.exit(ended.status ?? 1);
}
