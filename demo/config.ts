import { randomBytes } from 'node:crypto'
import { envSchema } from 'env-schema'
import { Type, type Static } from 'typebox'

const schema = Type.Object({
  HOST: Type.String({ default: '127.0.0.1' }),
  PORT: Type.Integer({ default: 3000, minimum: 0, maximum: 65535 }),
  LOG_LEVEL: Type.Union(
    ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'].map(level => Type.Literal(level)),
    { default: 'info' }
  ),
  REDIS_URL: Type.Optional(Type.String({ minLength: 1 })),
  REDIS_CLUSTER: Type.Optional(Type.String({ minLength: 1 })),
  REDIS_PASSWORD: Type.Optional(Type.String({ minLength: 1 })),
  START_REDIS: Type.Boolean({ default: false }),
  DATABASE_URL: Type.Optional(Type.String({ minLength: 1 })),
  DATABASE_SNAPSHOT: Type.Optional(Type.String({ minLength: 1 })),
  SESSION_SECRET: Type.Optional(Type.String({ minLength: 32 })),
  METRICS_TOKEN: Type.Optional(Type.String({ minLength: 16 })),
  RATE_LIMIT_MAX: Type.Integer({ default: 100, minimum: 0, maximum: 100_000 }),
  TRUST_PROXY: Type.Boolean({ default: false }),
  DRAIN_DELAY: Type.Integer({ default: 0, minimum: 0 }),
  MAX_EVENT_LOOP_DELAY: Type.Integer({ default: 1000, minimum: 0 })
})

/** The demo's configuration, read from the environment; `.env.example` explains each variable. */
export type Config = Static<typeof schema> & {
  SESSION_SECRET: string
  /** Whether the secret was generated, and is lost with this process. */
  isSecretTemporary: boolean
  clusterNodes: Array<{ host: string, port: number }> | undefined
}

/** @throws for a variable with an invalid value */
export function readConfig (env: NodeJS.ProcessEnv = process.env): Config {
  // Compose files and shells set unused variables to an empty string.
  const data = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== ''))
  const config = envSchema<Static<typeof schema>>({ schema, data, dotenv: false, env: false })
  if (config.REDIS_URL !== undefined && config.REDIS_CLUSTER !== undefined) {
    throw new Error('set REDIS_URL or REDIS_CLUSTER, not both')
  }
  if (config.START_REDIS && (config.REDIS_URL ?? config.REDIS_CLUSTER) !== undefined) {
    throw new Error('set START_REDIS, or REDIS_URL or REDIS_CLUSTER, not both')
  }
  return {
    ...config,
    SESSION_SECRET: config.SESSION_SECRET ?? randomBytes(32).toString('base64url'),
    isSecretTemporary: config.SESSION_SECRET === undefined,
    clusterNodes: config.REDIS_CLUSTER === undefined ? undefined : parseNodes(config.REDIS_CLUSTER)
  }
}

function parseNodes (text: string): Array<{ host: string, port: number }> {
  return text.split(',').map(node => {
    const match = /^([\w.-]+):(\d{1,5})$/.exec(node.trim())
    if (match === null) {
      throw new Error(`REDIS_CLUSTER must be a list of host:port, separated by commas, but contains "${node}"`)
    }
    return { host: match[1] ?? '', port: Number(match[2]) }
  })
}
