import type { RedisClient } from '../shared/client.js'

export interface CommandListener {
  /** @param ms - from when the command was written, or queued while there is no connection, to its answer */
  (command: string, ms: number, failed: boolean): void
}

// A command that waits for a connection passes again when there is one.
const TIMED = Symbol('metrics.timed')

/** What ioredis sends: its own type of it does not say that it has a promise. */
interface Sent {
  name: string
  promise: Promise<unknown>
  [TIMED]?: true
}

interface Sender {
  sendCommand (command: Sent, ...rest: unknown[]): unknown
}

const UNTIMED = new Set([
  // How long they take says nothing of the server.
  'blpop', 'brpop', 'brpoplpush', 'blmove', 'blmpop', 'bzpopmin', 'bzpopmax', 'bzmpop', 'xread', 'xreadgroup', 'wait', 'waitaof',
  // ioredis sends them as it connects, and older servers do not know all of them.
  'hello', 'auth', 'client', 'select', 'readonly'
])
const listening = new WeakMap<RedisClient, Set<CommandListener>>()

/**
 * Times each command of a client where all of them pass, also those of pipelines. The diagnostics channel of ioredis tells
 * them as well, but makes text of all arguments for it.
 *
 * @returns a function that ends it
 */
export function watchCommands (client: RedisClient, listener: CommandListener): () => void {
  const listeners = listening.get(client) ?? wrap(client)
  listeners.add(listener)
  return () => {
    listeners.delete(listener)
    if (listeners.size > 0 || listening.get(client) !== listeners) return
    listening.delete(client)
    // The method is the class's own again.
    Reflect.deleteProperty(client, 'sendCommand')
  }
}

function wrap (client: RedisClient): Set<CommandListener> {
  const listeners = new Set<CommandListener>()
  const sender = client as unknown as Sender
  const send = sender.sendCommand

  sender.sendCommand = function (command, ...rest) {
    if (command[TIMED] === undefined && !UNTIMED.has(command.name)) {
      command[TIMED] = true
      const started = performance.now()
      const tell = (failed: boolean) => {
        const ms = performance.now() - started
        for (const listener of listeners) listener(command.name, ms, failed)
      }
      command.promise.then(() => tell(false), () => tell(true))
    }
    return send.call(this, command, ...rest)
  }
  listening.set(client, listeners)
  return listeners
}
