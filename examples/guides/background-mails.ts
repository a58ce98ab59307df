// Mails that are appended to a stream by the request and sent in the background, with retries and
// dead letters. Start the stand-in of the mail provider, `npx tsx examples/guides/stand-in.ts`, then
// `npx tsx examples/guides/background-mails.ts`, on several ports if you like.
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import type { ConsumeOptions } from '../../plugins/events/index.js'
import { events, idempotency, redis } from '../../plugins/index.js'

interface Mail {
  to: string
  template: 'welcome' | 'receipt'
  values: Record<string, string>
}

interface MailOptions {
  /** For tests. */
  backoff?: ConsumeOptions<Mail>['backoff']
}

export async function build ({ backoff = { min: '1s', max: '5 minutes' } }: MailOptions = {}) {
  const app = Fastify({ logger: { level: process.env['LOG_LEVEL'] ?? 'info' } })
  const provider = process.env['MAIL_URL'] ?? 'http://localhost:8000'
  const url = process.env['REDIS_URL']
  if (url) await app.register(redis, { url, prefix: 'mails' })
  await app.register(events)
  await app.register(idempotency, { scope: request => request.ip })
  const mails = app.events.stream<Mail>('mails', { maxLength: 100_000, maxAge: '7 days' })

  // A sign-up that the client repeats appends one mail.
  app.post<{ Body: { email: string, name: string } }>('/users', {
    config: { idempotency: true }
  }, async (request, reply) => {
    const { email, name } = request.body
    // … the user is stored here …
    const mail: Mail = { to: email, template: 'welcome', values: { name } }
    const id = await mails.append(mail, { key: email })
    return await reply.code(202).send({ mail: id })
  })

  await mails.consume({
    group: 'send',
    concurrency: 20,
    retries: 8,
    backoff,
    async handler ({ id, data }, { signal }) {
      const response = await fetch(`${provider}/emails`, {
        method: 'POST',
        // The event's id is the same at each attempt, on each instance.
        headers: { 'content-type': 'application/json', 'idempotency-key': `mail-${id}` },
        body: JSON.stringify(data),
        signal: AbortSignal.any([signal, AbortSignal.timeout(10_000)])
      })
      if (!response.ok) throw new Error(`the mail provider responded with ${response.status}`)
    }
  })

  const deadLetters = mails.deadLetters('send')
  app.get('/mails', async () => {
    const { groups } = await mails.stats()
    return { ...groups['send'], dead: await deadLetters.list({ count: 20 }) }
  })
  app.post('/mails/replay', async () => ({ replayed: await deadLetters.replay() }))
  return app
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const app = await build()
  await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
}
