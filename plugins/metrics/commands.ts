import type { RedisClient } from '../shared/redis/client.js'
import { systemClock, type Clock } from '../shared/plugin/clock.js'

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
interface Watched {
  listeners: Set<CommandListener>
  /** Gives the client its method back. */
  release (): void
}

const listening = new WeakMap<RedisClient, Watched>()

/**
 * Times each command of a client where all of them pass, also those of pipelines. The diagnostics channel of ioredis tells
 * them as well, but makes text of all arguments for it.
 *
 * @param clock - by which they are timed; all listeners of a client share the first one's
 * @returns a function that ends it
 */
export function watchCommands (client: RedisClient, listener: CommandListener, clock: Clock = systemClock): () => void {
  const watched = listening.get(client) ?? wrap(client, clock)
  const { listeners } = watched
  listeners.add(listener)
  return () => {
    listeners.delete(listener)
    if (listeners.size > 0 || listening.get(client) !== watched) return
    listening.delete(client)
    watched.release()
  }
}

function wrap (client: RedisClient, clock: Clock): Watched {
  const listeners = new Set<CommandListener>()
  const sender = client as unknown as Sender
  const isOwn = Object.hasOwn(client, 'sendCommand')
  const send = sender.sendCommand

  const timed: Sender['sendCommand'] = function (this: unknown, command, ...rest) {
    if (listeners.size > 0 && command[TIMED] === undefined && !UNTIMED.has(command.name)) {
      command[TIMED] = true
      const started = clock.monotonic()
      const tell = (failed: boolean) => {
        const ms = clock.monotonic() - started
        for (const listener of listeners) listener(command.name, ms, failed)
      }
      command.promise.then(() => tell(false), () => tell(true))
    }
    return send.call(this, command, ...rest)
  }
  sender.sendCommand = timed
  const release = () => {
    // Others may do the like: what they put over this goes on to use it.
    if (sender.sendCommand !== timed) return
    if (isOwn) sender.sendCommand = send
    else Reflect.deleteProperty(client, 'sendCommand')
  }
  const watched = { listeners, release }
  listening.set(client, watched)
  return watched
}
