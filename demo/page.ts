import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import helmet from '@fastify/helmet'
import fastifyStatic from '@fastify/static'
import fp from 'fastify-plugin'

declare module 'fastify' {
  interface FastifyInstance {
    /** Whether there is a live page to send: it is made by `npm run build`. */
    hasPage: boolean
  }
}

// Beside the compiled file, or below it when it runs from source.
const ROOTS = ['../public/', '../dist/public/'].map(path => fileURLToPath(new URL(path, import.meta.url)))

const EXEMPT = { rateLimit: false, session: false, cache: false, pressureHandler: () => {} } as const

/** The live page's files, and the headers that keep everything else out of it; for the context in which it is registered. */
export const page = fp(async function page (fastify) {
  await fastify.register(helmet, {
    contentSecurityPolicy: {
      useDefaults: false,
      directives: {
        defaultSrc: ["'none'"],
        scriptSrc: ["'self'"],
        styleSrc: ["'self'"],
        connectSrc: ["'self'"],
        imgSrc: ["'self'", 'data:'],
        baseUri: ["'none'"],
        formAction: ["'none'"],
        frameAncestors: ["'none'"]
      }
    },
    xFrameOptions: { action: 'deny' },
    // The demo may be reached without TLS, where browsers complain of these.
    strictTransportSecurity: false,
    crossOriginOpenerPolicy: false,
    originAgentCluster: false
  })
  const root = ROOTS.find(path => existsSync(`${path}page.js`))
  fastify.decorate('hasPage', root !== undefined)
  if (root === undefined) return fastify.log.info('the live page is not built: npm run build')

  await fastify.register(fastifyStatic, { root, serve: false })
  fastify.get<{ Params: { file: string } }>('/assets/:file', {
    schema: { hide: true },
    // The route is ours, as one that is registered already can no longer be told these.
    config: EXEMPT
  }, (request, reply) => reply.sendFile(request.params.file))
}, { name: 'demo/page' })
