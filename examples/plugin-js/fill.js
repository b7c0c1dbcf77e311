// `fill` in JavaScript: replaces `{{name}}` in every HTML page by the value that the step's config gives.
//
// Nothing of Cofferdam is imported. The config is in the environment, what is printed is the log, and what is left in
// /tmp/outputs.jsonl is the step's outputs. Files are WASI's: the engine has no `fs`.

import { getEnvironment } from 'wasi:cli/environment@0.2.12';
import { getStdout } from 'wasi:cli/stdout@0.2.12';
import { getStderr } from 'wasi:cli/stderr@0.2.12';
import { getDirectories } from 'wasi:filesystem/preopens@0.2.12';

/** The most bytes that one write to a stream may have. */
const WRITE_BYTES = 4096;

/** The bytes of one read from a file. */
const READ_BYTES = 1n << 20n;

export const run = {
  run() {
    try {
      step();
    } catch (error) {
      print(getStderr(), `error: ${describe(error)}`);
      // A thrown `undefined` is WASI's error without a value: exit code 1.
      throw undefined;
    }
  },
};

function step() {
  const env = Object.fromEntries(getEnvironment());
  const values = new Map(Object.entries({
    // Every page may say where it comes from, too.
    project: env.COFFERDAM_PROJECT,
    deployment: env.COFFERDAM_DEPLOYMENT,
    ...JSON.parse(env.COFFERDAM_CONFIG).values,
  }));
  const release = directory('/release');
  let total = 0;
  for (const page of pages(release)) {
    const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(read(release, page));
    const [filled, count] = fill(text, values, page);
    if (count > 0) {
      write(release, page, filled);
      print(getStdout(), `${page}  ${count} placeholders`);
    }
    total += count;
  }
  if (total === 0) {
    print(getStderr(), 'warning: no page has a placeholder');
  }
  write(directory('/tmp'), 'outputs.jsonl', `${JSON.stringify({ name: 'filled', value: total })}\n`);
}

/** The text with every `{{name}}` replaced, and how many there were. */
function fill(text, values, page) {
  let filled = '';
  let count = 0;
  for (;;) {
    const opened = text.indexOf('{{');
    const closed = text.indexOf('}}', opened + 2);
    if (opened < 0 || closed < 0) {
      return [filled + text, count];
    }
    const name = text.slice(opened + 2, closed).trim();
    if (!values.has(name)) {
      throw new Error(`/release/${page}: nothing fills {{${name}}}`);
    }
    filled += text.slice(0, opened) + escaped(values.get(name));
    count += 1;
    text = text.slice(closed + 2);
  }
}

function escaped(value) {
  return value.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('"', '&quot;');
}

/** Every HTML page below a directory, in order, as paths from there. Links are not followed. */
function pages(root) {
  const found = [];
  const look = (descriptor, prefix) => {
    const entries = descriptor.readDirectory();
    for (let entry; (entry = entries.readDirectoryEntry()); ) {
      const path = prefix + entry.name;
      if (entry.type === 'directory') {
        look(descriptor.openAt({}, entry.name, { directory: true }, { read: true }), `${path}/`);
      } else if (entry.type === 'regular-file' && /[^/]\.html$/.test(path)) {
        found.push(path);
      }
    }
  };
  look(root, '');
  return found.sort();
}

/** A directory that the step was given. */
function directory(path) {
  const found = getDirectories().find(([, name]) => name === path);
  if (!found) {
    throw new Error(`the step was given no ${path}`);
  }
  return found[0];
}

function read(root, path) {
  const file = root.openAt({}, path, {}, { read: true });
  const parts = [];
  let length = 0;
  for (let end = false; !end; ) {
    let part;
    [part, end] = file.read(READ_BYTES, BigInt(length));
    parts.push(part);
    length += part.length;
  }
  const bytes = new Uint8Array(length);
  parts.reduce((at, part) => (bytes.set(part, at), at + part.length), 0);
  return bytes;
}

function write(root, path, text) {
  const file = root.openAt({}, path, { create: true, truncate: true }, { read: true, write: true });
  const bytes = new TextEncoder().encode(text);
  for (let at = 0; at < bytes.length; ) {
    at += Number(file.write(bytes.subarray(at), BigInt(at)));
  }
}

function print(stream, line) {
  const bytes = new TextEncoder().encode(`${line}\n`);
  for (let at = 0; at < bytes.length; at += WRITE_BYTES) {
    stream.blockingWriteAndFlush(bytes.subarray(at, at + WRITE_BYTES));
  }
}

/** An error in words; one of WASI's is a code like `no-entry`. */
function describe(error) {
  return error instanceof Error ? error.message : String(error?.payload ?? error);
}
