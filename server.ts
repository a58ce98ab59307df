import closeWithGrace from 'close-with-grace'
import { buildApp } from './app.js'
import { readConfig, type Config } from './demo/config.js'
import { OwnRedis } from './demo/own-redis.js'

const CLOSE_TIMEOUT_MS = 10_000

async function start (config: Config): Promise<void> {
  const ownRedis = config.START_REDIS ? await OwnRedis.start() : undefined
  const app = await buildApp(
    config,
    {
      logger: { level: config.LOG_LEVEL }, ownRedis, logProgress: ['trace', 'debug', 'info'].includes(config.LOG_LEVEL)
    }
  )
  if (ownRedis !== undefined) {
    app.log.info(
      `started a Redis at ${ownRedis.url}: the live page can break it; REDIS_URL=${ownRedis.url} PORT=3001 npm ` +
      'start adds an instance'
    )
  }
  if (config.isSecretTemporary) app.log.warn('SESSION_SECRET is not set: sessions end with this process')

  closeWithGrace({ delay: CLOSE_TIMEOUT_MS + config.DRAIN_DELAY }, async ({ signal, err }) => {
    if (err) app.log.error({ err }, 'closing after an error')
    else app.log.info({ signal }, 'closing: readiness fails, requests in flight are finished')
    await app.health.drain()
    await app.close()
    await ownRedis?.stop()
  })
  await app.listen({ host: config.HOST, port: config.PORT })
}

try {
  await start(readConfig())
} catch (error) {
  // One line: the message names the problem, and a stack trace would not help.
  process.stderr.write(`cannot start: ${error instanceof Error ? error.message : String(error)}\n`)
  process.exit(1)
}
