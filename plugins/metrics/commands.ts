import type { RedisClient } from '../shared/redis/client.js'
import { isIoredis } from '../shared/redis/clients/ioredis.js'
import { isUpstash, restOf } from '../shared/redis/clients/upstash.js'
import { systemClock, type Clock } from '../shared/plugin/clock.js'
import type { Milliseconds } from '../shared/plugin/units.js'

/** @param ms - the time from writing the command, or queueing it while there is no connection, to its reply */
type CommandListener = (command: string, ms: Milliseconds, hasFailed: boolean) => void

// A command that waited for a connection is sent again when there is one.
const TIMED = Symbol('metrics.timed')

/** A command of ioredis, whose own type does not have the promise. */
interface SentCommand {
  name: string
  promise: Promise<unknown>
  [TIMED]?: true
}

interface Sender {
  sendCommand (this: unknown, ...args: unknown[]): unknown
}

const UNTIMED = new Set([
  // Blocking commands wait for data: their duration does not depend on the server.
  'blpop', 'brpop', 'brpoplpush', 'blmove', 'blmpop', 'bzpopmin', 'bzpopmax', 'bzmpop', 'xread', 'xreadgroup', 'wait',
  'waitaof',
  // ioredis sends these while it connects, and older servers do not know all of them.
  'hello', 'auth', 'client', 'select', 'readonly'
])

interface WatchedClient {
  listeners: Set<CommandListener>
  /** Restores the client's own method. */
  restore (): void
}

const watchedClients = new WeakMap<RedisClient, WatchedClient>()

/**
 * Times each command of a client, also those of pipelines, by wrapping `sendCommand` (see docs/internals/interop.md).
 * The diagnostics channel of ioredis reports commands as well, but serializes all their arguments.
 *
 * @param clock - all listeners of a client share the clock of the first one
 * @returns a function that removes the listener
 */
export function watchCommands (client: RedisClient, listener: CommandListener, clock: Clock = systemClock): () => void {
  const watched = watchedClients.get(client) ?? wrap(client, clock)
  const { listeners } = watched
  listeners.add(listener)
  return () => {
    listeners.delete(listener)
    if (listeners.size > 0 || watchedClients.get(client) !== watched) return
    watchedClients.delete(client)
    watched.restore()
  }
}

function wrap (client: RedisClient, clock: Clock): WatchedClient {
  const listeners = new Set<CommandListener>()
  const sender = (isUpstash(client) ? restOf(client) : client) as unknown as Sender
  const isOwn = Object.hasOwn(sender, 'sendCommand')
  const send = sender.sendCommand

  const time = (command: string, reply: Promise<unknown>) => {
    const startedAt = clock.monotonic()
    const notify = (hasFailed: boolean) => {
      const ms = clock.monotonic() - startedAt
      for (const listener of listeners) listener(command, ms, hasFailed)
    }
    reply.then(() => notify(false), () => notify(true))
  }

  const ofIoredis: Sender['sendCommand'] = function (...args) {
    const command = args[0] as SentCommand
    if (listeners.size > 0 && command[TIMED] === undefined && !UNTIMED.has(command.name)) {
      command[TIMED] = true
      time(command.name, command.promise)
    }
    return Reflect.apply(send, this, args)
  }
  const ofPromise: Sender['sendCommand'] = function (...args) {
    const reply = Reflect.apply(send, this, args)
    // The command is a list of words, after the key of a Cluster's; over HTTP its name is the first argument.
    const name = String(isUpstash(client) ? args[0] : args.find(Array.isArray)?.[0]).toLowerCase()
    if (listeners.size > 0 && !UNTIMED.has(name)) time(name, reply as Promise<unknown>)
    return reply
  }
  const timed = isIoredis(client) ? ofIoredis : ofPromise
  sender.sendCommand = timed
  const restore = () => {
    // Another library may have wrapped this function since, and goes on to call it.
    if (sender.sendCommand !== timed) return
    if (isOwn) sender.sendCommand = send
    else Reflect.deleteProperty(sender, 'sendCommand')
  }
  const watched = { listeners, restore }
  watchedClients.set(client, watched)
  return watched
}
