import type { FastifyInstance } from 'fastify'
import { portOf, type RedisClient } from '../../../plugins/shared/redis/client.js'
import type { CommandArgument, QueuedCommand } from '../../../plugins/shared/redis/port.js'

/** @param send - sends the command, and returns its reply */
export type CommandHook = (name: string, args: readonly CommandArgument[], send: () => Promise<unknown>) => Promise<unknown>

/** Calls a hook in place of each command that the plugins of an app send, by a client of any library. Commands that it sends at once are still written together. */
export function interceptCommands ({ redis }: FastifyInstance, hook: CommandHook): void {
  const port = portOf(redis as RedisClient)
  const send = port.send.bind(port)
  const sendAll = port.sendAll.bind(port)
  port.send = (name, args, asBytes) => hook(name, args, () => send(name, args, asBytes)) as Promise<never>
  port.sendAll = commands => {
    const together: QueuedCommand[] = []
    let isTurn = true
    for (const command of commands) {
      const pass = () => new Promise<unknown>((resolve, reject) => {
        const queued = { ...command, resolve, reject }
        if (isTurn) together.push(queued)
        else sendAll([queued])
      })
      hook(command.name, command.args, pass).then(command.resolve, command.reject)
    }
    isTurn = false
    if (together.length > 0) sendAll(together)
  }
}
