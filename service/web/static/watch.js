/**
 * Watch a job: every event once, in order, to its end, whatever happens to the connection.
 *
 *     import { watch } from "/static/watch.js";
 *
 *     const watching = watch(job.id, { onEvent: event => show(event.type, event.data) });
 *     const last = await watching.done;
 *
 * An event is {id, job_id, type, time, data}; docs/events.md lists the types. The first one is a
 * `snapshot`, the job as it is; after a `gap` (events are lost, there were too many) comes another.
 *
 * watch(jobId, options) takes
 *   onEvent(event)        called with each event
 *   onState(state, why)   "connecting", "open", "waiting" (why: {code, seconds} to the next try), "closed"
 *   after                 the id of the last event already seen: no snapshot, only what follows; 0: the whole log
 *   types                 a list: only events of these types
 *   url                   where the service is; left out: where this file was loaded from. A service on
 *                         another site must have this page's origin in its ALLOWED_ORIGINS.
 *   triesBeforeOpen       5: after so many handshakes that failed, with none that worked, it gives up
 * and returns an object with
 *   done      a promise of the last event: the terminal one, or a snapshot whose data.done is true. Rejects
 *             with a WatchError {code, type, title}: 4400 bad cursor or types, 4404 no such job, 4410 the
 *             job is gone, 1006 not one socket opened (no server, or it refuses this page: a browser does
 *             not say which).
 *   close()   stops watching; `done` then gives undefined.
 *
 * A lost connection is opened again, after up to 0.25 s, 0.5 s, 1 s ... 10 s, and at once when the
 * browser is online again; it goes on after the last event seen. One file, no build, no dependencies:
 * for browsers, and for Node from 22 on (with `url`).
 */

const FIRST_DELAY = 0.25, LONGEST_DELAY = 10; // seconds
const OPEN_WITHIN = 15; // seconds; a browser would wait for minutes
const OVER = 1000, TOO_SLOW = 4408;
const TERMINAL = new Set(["finished", "failed", "stopped", "canceled"]);

export function watch(jobId, options = {}) {
  return new Watching(jobId, options);
}

/** The job cannot be watched, and trying again would not help. */
export class WatchError extends Error {
  constructor(code, type, title) {
    super(title);
    Object.assign(this, { name: "WatchError", code, type, title });
  }
}

class Watching {
  #address; #options; #cursor; #last; #socket; #timer; #settle;
  #opened = false;
  #failures = 0; // handshakes and sockets that broke, since the last event

  constructor(jobId, { url, types, after, ...options }) {
    this.#address = addressOf(jobId, url ?? new URL("..", import.meta.url), types);
    this.#cursor = after ?? undefined;
    this.#options = { triesBeforeOpen: 5, ...options };
    this.done = new Promise((resolve, reject) => {
      this.#settle = { resolve, reject };
      globalThis.addEventListener?.("online", this.#online);
      this.#connect();
    });
  }

  close = () => this.#end("resolve");

  #connect() {
    if (this.#cursor !== undefined) this.#address.searchParams.set("after", this.#cursor);
    const socket = (this.#socket = new WebSocket(this.#address));
    // A socket that is no longer ours may still speak: nobody listens.
    const on = (name, heard) => socket.addEventListener(name, event => socket === this.#socket && heard(event));
    this.#timer = setTimeout(() => this.#closed({ code: 1006 }), OPEN_WITHIN * 1000);
    on("open", () => this.#open());
    on("message", message => this.#take(JSON.parse(message.data)));
    on("close", close => this.#closed(close));
    // A browser says `close` as well, at once; Node (seen in 20) does not.
    on("error", () => setTimeout(() => socket === this.#socket && this.#closed({ code: 1006 }), 1000));
    this.#tell("connecting");
  }

  #open() {
    clearTimeout(this.#timer);
    this.#opened = true;
    this.#tell("open");
  }

  #take(event) {
    const logged = event.type !== "snapshot" && event.type !== "gap"; // those are made for this watcher
    if (logged && !this.#isNew(event)) return;
    if (event.type !== "gap") this.#cursor = event.id; // from a gap one cannot go on: the next snapshot counts
    this.#last = event;
    this.#failures = 0;
    this.#options.onEvent?.(event);
  }

  #isNew({ id }) {
    return this.#cursor === undefined || compared(id, String(this.#cursor)) > 0;
  }

  #closed({ code, reason }) {
    this.#leave();
    const refused = code >= 4400 && code < 4500 && code !== TOO_SLOW;
    if (code === OVER || (refused && isEnd(this.#last))) this.#end("resolve", this.#last);
    else if (refused) this.#end("reject", new WatchError(code, ...explained(reason)));
    else this.#retry(code);
  }

  #retry(code) {
    this.#failures += 1;
    if (!this.#opened && this.#failures >= this.#options.triesBeforeOpen) {
      this.#end("reject", new WatchError(code, "unreachable", `no socket opened in ${this.#failures} tries`));
      return;
    }
    // At random within the whole delay: the watchers of a server that comes back do not all come at once.
    const seconds = Math.random() * Math.min(LONGEST_DELAY, FIRST_DELAY * 2 ** (this.#failures - 1));
    this.#timer = setTimeout(() => this.#connect(), seconds * 1000);
    this.#tell("waiting", { code, seconds });
  }

  #online = () => {
    if (this.#socket !== undefined) return;
    this.#leave();
    this.#connect();
  };

  /** Nothing comes any more: no word of a socket, no next try. */
  #leave() {
    clearTimeout(this.#timer);
    this.#socket?.close();
    this.#socket = undefined;
  }

  #end(how, value) {
    if (this.#settle === undefined) return;
    const settle = this.#settle[how];
    this.#settle = undefined;
    globalThis.removeEventListener?.("online", this.#online);
    this.#leave();
    settle(value);
    this.#tell("closed");
  }

  #tell(state, why) {
    this.#options.onState?.(state, why);
  }
}

function addressOf(jobId, url, types) {
  const address = new URL(url);
  address.protocol = address.protocol.replace("http", "ws");
  address.pathname = `${address.pathname.replace(/\/$/, "")}/v1/jobs/${encodeURIComponent(jobId)}/events`;
  if (types) address.searchParams.set("types", [...types].join());
  return address;
}

/** Ids are <milliseconds>-<sequence>; the result is below, at or above 0, as in a sort. */
function compared(one, other) {
  const [[ms, seq = 0], [otherMs, otherSeq = 0]] = [one, other].map(id => id.split("-").map(Number));
  return ms - otherMs || seq - otherSeq;
}

function isEnd(event) {
  return TERMINAL.has(event?.type) || (event?.type === "snapshot" && event.data.done);
}

/** Type and title, from the reason of a close. */
function explained(reason) {
  try {
    const { type, title } = JSON.parse(reason);
    return [type, title];
  } catch {
    return ["unknown", reason];
  }
}
