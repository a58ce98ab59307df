import { freePort } from './free-port.js'
import { RedisServer, type RedisProcessOptions } from './redis-process.js'
import { scratchDir } from './scratch.js'

/** Another process may take the port before the server does: then it tries the next one. */
export async function startOnFreePort (
  port: number | undefined,
  describe: (port: number, dir: string) => Promise<RedisProcessOptions> | RedisProcessOptions
): Promise<RedisServer> {
  for (let attempt = 1; ; attempt++) {
    const server = new RedisServer(await describe(port ?? await freePort(), scratchDir()))
    try {
      await server.start()
      return server
    } catch (error) {
      await server.stop()
      const isPortTaken = (error as Error).message.includes('Address already in use')
      if (port !== undefined || !isPortTaken || attempt === 5) throw error
    }
  }
}
