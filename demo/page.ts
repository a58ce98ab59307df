import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import helmet from '@fastify/helmet'
import fastifyStatic from '@fastify/static'
import fp from 'fastify-plugin'

declare module 'fastify' {
  interface FastifyInstance {
    /** Whether the live page was built (`npm run build`). */
    hasPage: boolean
  }
}

// Relative to the compiled file, and to the source file.
const ROOTS = ['../public/', '../dist/public/'].map(path => fileURLToPath(new URL(path, import.meta.url)))

const EXEMPT = { rateLimit: false, session: false, cache: false, pressureHandler: () => {} } as const

/**
 * Serves the live page's files, and sets its security headers for the routes of the context in which it is registered.
 */
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
    // Without TLS, browsers report these headers as errors.
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
    // The plugin's own routes could not have this config.
    config: EXEMPT
  }, (request, reply) => reply.sendFile(request.params.file))
}, { name: 'demo/page' })
