// The servers that `npm run test:servers` knows, and the suites of Debian that have their packages.

export interface ListedServer {
  /** The name on the command line. Its number is the version, or the beginning of it. */
  name: string
  /** The package has a program of the same name. */
  package: string
  /** The suite that has the package is the last one; those before it have what the package depends on. */
  suites: string[]
}

export const SERVERS: readonly ListedServer[] = [
  { name: 'redis-6.0', package: 'redis-server', suites: ['bullseye'] },
  // No suite has it.
  { name: 'redis-6.2', package: 'redis-server', suites: [] },
  { name: 'redis-7.0', package: 'redis-server', suites: ['bookworm'] },
  { name: 'redis-8.0', package: 'redis-server', suites: ['trixie'] },
  { name: 'redis-8', package: 'redis-server', suites: ['sid', 'experimental'] },
  { name: 'valkey-8.0', package: 'valkey-server', suites: ['bookworm', 'bookworm-backports'] },
  { name: 'valkey-8', package: 'valkey-server', suites: ['trixie'] },
  { name: 'valkey-9', package: 'valkey-server', suites: ['forky'] },
  { name: 'redict-7', package: 'redict-server', suites: ['trixie', 'trixie-backports'] }
]

export interface ChosenServer {
  server: ListedServer
  /** A program to use instead of the package. */
  binary?: string
}

/**
 * Reads arguments such as `valkey-9` or `redis-6.2=/opt/redis/redis-server`; none are all servers.
 *
 * @throws for a name that is not in the list
 */
export function chooseServers (args: readonly string[]): ChosenServer[] {
  if (args.length === 0) return SERVERS.map(server => ({ server }))
  return args.map(arg => {
    const [name = '', binary] = arg.split(/=(.*)/s)
    const server = SERVERS.find(server => server.name === name)
    if (server === undefined) {
      throw new Error(`unknown server "${name}"; one of ${SERVERS.map(server => server.name).join(', ')}`)
    }
    return { server, ...binary && { binary } }
  })
}

/** Whether a server has the version that its name promises: `8.0.2` is one of `redis-8` and of `redis-8.0`. */
export function isVersionOf ({ name }: ListedServer, version: string): boolean {
  const promised = name.slice(name.indexOf('-') + 1)
  return version === promised || version.startsWith(`${promised}.`)
}
