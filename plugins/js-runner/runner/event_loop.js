// Jobs, timers and the promises that run on them.
//
// The engine keeps the jobs of its own promises in a queue that only an asynchronous host empties, and the contract's
// functions are synchronous. So programs get this `Promise`, and `program.js` writes their `async` functions as
// generators that `runAsync` and `streamAsync` drive. Nothing outside can wake a program, so a timer is due as soon
// as nothing else is left to do: timers fire in order, and nobody waits.

const jobs = [];
let nextJob = 0;
const timers = new Map();
let lastTimer = 0;
let now = 0;
// Rejected promises that nobody has looked at.
const unhandled = new Set();

export function enqueue(job) {
  jobs.push(job);
}

// Runs everything that can still run. Returns the rejection that nobody handles, as `{ reason }`, or `null`.
export function runToEnd() {
  for (;;) {
    runJobs();
    for (const promise of unhandled) return { reason: promise.rejection };
    const timer = earliestTimer();
    if (!timer) return null;
    fire(timer);
  }
}

function runJobs() {
  while (nextJob < jobs.length) {
    const job = jobs[nextJob];
    jobs[nextJob++] = undefined;
    job();
    if (nextJob === 4096) {
      jobs.splice(0, nextJob);
      nextJob = 0;
    }
  }
  jobs.length = nextJob = 0;
}

function earliestTimer() {
  let earliest = null;
  for (const timer of timers.values()) {
    if (!earliest || timer.due < earliest.due) earliest = timer;
  }
  return earliest;
}

function fire(timer) {
  now = Math.max(now, timer.due);
  if (timer.every === null) timers.delete(timer.id);
  else timer.due = now + timer.every;
  timer.callback(...timer.values);
}

export function setTimeout(callback, delay, ...values) {
  return startTimer(callback, delay, null, values);
}

export function setInterval(callback, delay, ...values) {
  return startTimer(callback, delay, Math.max(Number(delay) || 0, 1), values);
}

function startTimer(callback, delay, every, values) {
  if (typeof callback !== "function") throw new TypeError("a timer's callback is not a function");
  const id = ++lastTimer;
  timers.set(id, { id, callback, values, every, due: now + Math.max(Number(delay) || 0, 1) });
  return id;
}

export function clearTimer(id) {
  timers.delete(id);
}

export function queueMicrotask(callback) {
  if (typeof callback !== "function") throw new TypeError("a microtask is not a function");
  enqueue(callback);
}

class PlainPromise {
  #state = "pending";
  #value;
  #reactions = [];
  #isHandled = false;

  constructor(executor) {
    if (typeof executor !== "function") throw new TypeError("a promise's executor is not a function");
    const { resolve, reject } = this.#once();
    try {
      executor(resolve, reject);
    } catch (error) {
      reject(error);
    }
  }

  // Functions that settle this promise; the first call of either counts.
  #once() {
    let isDone = false;
    const first = (settle) => (value) => {
      if (isDone) return;
      isDone = true;
      settle(value);
    };
    return { resolve: first((value) => this.#resolve(value)), reject: first((error) => this.#settle("rejected", error)) };
  }

  #resolve(value) {
    if (value === this) return this.#settle("rejected", new TypeError("a promise was resolved with itself"));
    if (value === null || (typeof value !== "object" && typeof value !== "function")) {
      return this.#settle("fulfilled", value);
    }
    let then;
    try {
      then = value.then;
    } catch (error) {
      return this.#settle("rejected", error);
    }
    if (typeof then !== "function") return this.#settle("fulfilled", value);
    enqueue(() => {
      const { resolve, reject } = this.#once();
      try {
        then.call(value, resolve, reject);
      } catch (error) {
        reject(error);
      }
    });
  }

  #settle(state, value) {
    this.#state = state;
    this.#value = value;
    if (state === "rejected" && !this.#isHandled) unhandled.add(this);
    for (const reaction of this.#reactions) enqueue(() => reaction(state, value));
    this.#reactions = [];
  }

  #react(reaction) {
    this.#isHandled = true;
    unhandled.delete(this);
    if (this.#state === "pending") this.#reactions.push(reaction);
    else enqueue(() => reaction(this.#state, this.#value));
  }

  then(onFulfilled, onRejected) {
    return new PlainPromise((resolve, reject) => {
      this.#react((state, value) => {
        const handler = state === "fulfilled" ? onFulfilled : onRejected;
        if (typeof handler !== "function") return state === "fulfilled" ? resolve(value) : reject(value);
        try {
          resolve(handler(value));
        } catch (error) {
          reject(error);
        }
      });
    });
  }

  catch(onRejected) {
    return this.then(undefined, onRejected);
  }

  finally(callback) {
    if (typeof callback !== "function") return this.then(callback, callback);
    return this.then(
      (value) => PlainPromise.resolve(callback()).then(() => value),
      (error) =>
        PlainPromise.resolve(callback()).then(() => {
          throw error;
        }),
    );
  }

  get [Symbol.toStringTag]() {
    return "Promise";
  }

  // For `inspect`.
  inspected(show) {
    if (this.#state === "pending") return "<pending>";
    return this.#state === "rejected" ? `<rejected> ${show(this.#value)}` : show(this.#value);
  }

  get rejection() {
    return this.#value;
  }

  static resolve(value) {
    return value instanceof PlainPromise ? value : new PlainPromise((resolve) => resolve(value));
  }

  static reject(error) {
    return new PlainPromise((_, reject) => reject(error));
  }

  static withResolvers() {
    const parts = {};
    parts.promise = new PlainPromise((resolve, reject) => Object.assign(parts, { resolve, reject }));
    return parts;
  }

  static try(callback, ...values) {
    return new PlainPromise((resolve) => resolve(callback(...values)));
  }

  static all(promises) {
    return collect(promises, (each, results, at, done, reject) => {
      each.then((value) => done((results[at] = value)), reject);
    });
  }

  static allSettled(promises) {
    return collect(promises, (each, results, at, done) => {
      each.then(
        (value) => done((results[at] = { status: "fulfilled", value })),
        (reason) => done((results[at] = { status: "rejected", reason })),
      );
    });
  }

  static any(promises) {
    return new PlainPromise((resolve, reject) => {
      collect(promises, (each, errors, at, done) => {
        each.then(resolve, (error) => done((errors[at] = error)));
      }).then((errors) => reject(new AggregateError(errors, "All promises were rejected")), reject);
    });
  }

  static race(promises) {
    return new PlainPromise((resolve, reject) => {
      for (const promise of promises) PlainPromise.resolve(promise).then(resolve, reject);
    });
  }
}

Object.defineProperty(PlainPromise, "name", { value: "Promise" });
export { PlainPromise as Promise };

// A promise of a list that is whole when `done` was called for each of `promises`.
function collect(promises, watch) {
  return new PlainPromise((resolve, reject) => {
    const results = [];
    let left = 1;
    const done = () => --left || resolve(results);
    let at = 0;
    for (const promise of promises) {
      left++;
      watch(PlainPromise.resolve(promise), results, at++, done, reject);
    }
    done();
  });
}

// Drives an asynchronous function that was written as a generator: it yields what it awaits.
export function runAsync(generator) {
  return new PlainPromise((resolve, reject) => {
    const step = (method, value) => {
      let result;
      try {
        result = generator[method](value);
      } catch (error) {
        return reject(error);
      }
      if (result.done) resolve(result.value);
      else awaited(result.value, step);
    };
    step("next");
  });
}

function awaited(value, step) {
  PlainPromise.resolve(value).then(
    (result) => step("next", result),
    (error) => step("throw", error),
  );
}

// What an asynchronous generator yields, as opposed to what it awaits.
class Yielded {
  constructor(value) {
    this.value = value;
  }
}

export function yielded(value) {
  return new Yielded(value);
}

// Drives an asynchronous generator that was written as a generator: one request after the other.
export function streamAsync(generator) {
  const requests = [];
  const serve = () => {
    const { method, value, resolve, reject } = requests[0];
    const end = (settle) => (result) => {
      requests.shift();
      settle(result);
      if (requests.length > 0) serve();
    };
    const step = (method, value) => {
      let result;
      try {
        result = generator[method](value);
      } catch (error) {
        return end(reject)(error);
      }
      const { done } = result;
      if (done) {
        PlainPromise.resolve(result.value).then((value) => end(resolve)({ value, done }), end(reject));
      } else if (result.value instanceof Yielded) {
        PlainPromise.resolve(result.value.value).then(
          (value) => end(resolve)({ value, done }),
          (error) => step("throw", error),
        );
      } else {
        awaited(result.value, step);
      }
    };
    step(method, value);
  };
  const ask = (method) => (value) =>
    new PlainPromise((resolve, reject) => {
      requests.push({ method, value, resolve, reject });
      if (requests.length === 1) serve();
    });
  return {
    next: ask("next"),
    return: ask("return"),
    throw: ask("throw"),
    [Symbol.asyncIterator]() {
      return this;
    },
    get [Symbol.toStringTag]() {
      return "AsyncGenerator";
    },
  };
}

// `for await`: `step` says whether there is a next `value`, `close` ends an iteration that was left early.
export function each(iterable) {
  const method = iterable[Symbol.asyncIterator];
  const iterator = method ? method.call(iterable) : iterable[Symbol.iterator]();
  let isDone = false;
  return {
    value: undefined,
    *step() {
      isDone = true; // until the next value is there, there is nothing to close
      const result = method ? yield iterator.next() : iterator.next();
      if (result.done) return false;
      this.value = method ? result.value : yield result.value;
      isDone = false;
      return true;
    },
    *close() {
      if (!isDone) yield iterator.return?.();
    },
  };
}

// `yield*` of an asynchronous generator.
export function* delegate(iterable) {
  const values = each(iterable);
  while (yield* values.step()) yield new Yielded(values.value);
}
