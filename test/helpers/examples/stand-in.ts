import type { AddressInfo } from 'node:net'
import type { Test } from 'tap'
import { build, type StandInOptions } from '../../../examples/guides/stand-in.js'

export interface StandIn {
  url: string
  /** What it did, once per key, and how many requests it got. */
  state: () => Promise<{ requests: number, done: Array<{ key: string, path: string, body: unknown }> }>
}

/** Starts the service of another company that the guides call, see `examples/guides/stand-in.ts`. */
export async function startStandIn (t: Test, options: StandInOptions = {}): Promise<StandIn> {
  const app = await build(options)
  t.teardown(() => app.close())
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as AddressInfo
  return { url: `http://127.0.0.1:${port}`, state: async () => (await app.inject('/')).json() }
}
