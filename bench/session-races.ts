import type { ChildProcess } from 'node:child_process'
import type { Server } from './frame/server.js'

type Servers = readonly [Server, Server, Server]
type LogIn = (url: string, user: string) => Promise<string>

const AT_ONCE = 25

/** Counts lost updates in `count` races over three instances, 25 at a time. */
export async function races (servers: Servers, logIn: LogIn, count: number): Promise<Record<string, number>> {
  for (const { child } of servers) child.setMaxListeners(2 * AT_ONCE)
  const run = async (race: (user: string) => Promise<boolean>) => await countFailures(race, count)
  return {
    'lost updates, handlers of 0 ms': await run(async user =>
      await isUpdateLost(servers, await logIn(servers[2].url, user), 0)),
    'of 10 ms': await run(async user => await isUpdateLost(servers, await logIn(servers[2].url, user), 10)),
    'alive after logout, the slow request changes': await run(async user =>
      await isResurrected(servers, await logIn(servers[2].url, user), 'change', user)),
    'it only reads': await run(async user =>
      await isResurrected(servers, await logIn(servers[2].url, user), 'read', user))
  }
}

async function countFailures (race: (user: string) => Promise<boolean>, count: number): Promise<number> {
  let failures = 0
  let next = 0
  const worker = async () => {
    while (next < count) if (await race(`user-${next++}`)) failures++
  }
  await Promise.all(Array.from({ length: AT_ONCE }, worker))
  return failures
}

async function ask (url: string, cookie: string): Promise<{ status: number, body: Record<string, unknown> }> {
  const response = await fetch(url, { headers: { cookie } })
  const body: unknown = await response.json()
  return { status: response.status, body: body as Record<string, unknown> }
}

async function mustAsk (url: string, cookie: string): Promise<Record<string, unknown>> {
  const { status, body } = await ask(url, cookie)
  if (status !== 200) throw new Error(`${url} answered ${status}`)
  return body
}

/** Sends two concurrent requests to two instances, each of which sets a property. */
async function isUpdateLost ([a, b, c]: Servers, cookie: string, ms: number): Promise<boolean> {
  await Promise.all([mustAsk(`${a.url}/set/A/${ms}`, cookie), mustAsk(`${b.url}/set/B/${ms}`, cookie)])
  const { fieldA, fieldB } = await mustAsk(`${c.url}/session`, cookie)
  return fieldA !== true || fieldB !== true
}

/**
 * Logs out on one instance while a request on another holds the session, and checks whether the cookie is still logged
 * in.
 */
async function isResurrected (
  [a, b, c]: Servers, cookie: string, what: 'change' | 'read', id: string
): Promise<boolean> {
  const isHeld = heard(a.child, id)
  const slow = ask(`${a.url}/hold/${what}/${id}`, cookie)
  await isHeld
  await mustAsk(`${b.url}/logout`, cookie)
  a.child.send(id)
  await slow
  return (await ask(`${c.url}/read`, cookie)).status === 200
}

async function heard (child: ChildProcess, id: string): Promise<void> {
  await new Promise<void>(resolve => {
    child.on('message', function onMessage (message) {
      if (message !== id) return
      child.off('message', onMessage)
      resolve()
    })
  })
}
