// Older servers lack commands. A test that needs one is skipped there, and names it.
import { sharedRedis } from './shared.js'

/** Whether the server that the tests run on has a command, such as `ssubscribe`. */
export async function hasCommand (name: string): Promise<boolean> {
  const [known] = await (await sharedRedis()).client().call('COMMAND', 'INFO', name) as unknown[]
  return Boolean(known)
}

/** Returns why tap skips a test of what Redis has since version 7; false where the server has the command. */
export async function lacking (command: 'ssubscribe' | 'function'): Promise<string | false> {
  return !await hasCommand(command) && `${command.toUpperCase()} needs Redis 7`
}
