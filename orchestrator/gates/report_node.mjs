// A reporter for `node --test`, by which gates count: runs inside a sandbox, in the runner's own process.
// A file that ran no test is told by the runner as a test of the file's name; it is not one.
import path from "node:path";

export default async function* report(source) {
  const told = { ran: 0, skipped: 0, failed: 0, coverage: null };
  const testFiles = new Set();
  let files = [];
  for await (const { type, data } of source) {
    if (data?.file) testFiles.add(data.file);
    if (type === "test:coverage") files = data.summary.files;
    if (type !== "test:pass" && type !== "test:fail") continue;
    const wholeFile = data.nesting === 0 && data.file && path.resolve(data.name) === data.file;
    if (type === "test:fail" && (data.details?.type !== "suite" || wholeFile)) told.failed += 1;
    if (data.details?.type === "suite" || wholeFile) continue;
    if (data.skip !== undefined || data.todo !== undefined) told.skipped += 1;
    else told.ran += 1;
  }
  // The tests themselves are no code that tests have to reach.
  const sources = files.filter((file) => !testFiles.has(file.path));
  const sum = (key) => sources.reduce((total, file) => total + file[key], 0);
  if (sum("totalLineCount") > 0) told.coverage = (100 * sum("coveredLineCount")) / sum("totalLineCount");
  yield JSON.stringify(told);
}
