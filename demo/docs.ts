import swagger from '@fastify/swagger'
import swaggerUi from '@fastify/swagger-ui'
import type { FastifySchema } from 'fastify'
import fp from 'fastify-plugin'
import { DEMO_PASSWORD } from './seed.js'

const DESCRIPTION = `The demo of fastify-redis-suite. Each example works: press *Execute*.

**Log in** by \`POST /login\`: its examples are a user and the admin. The users are \`user1@example.com\` to \`user1000@example.com\` and \`admin@example.com\`,
all with the password \`${DEMO_PASSWORD}\`. The browser then sends the session's cookie by itself, so routes with a padlock work, and *Authorize* is not needed.

An error has the form \`{ statusCode, code, error, message }\`. A response 429 or 503 names in \`Retry-After\` the ` +
  'seconds after which a retry makes sense.'

const TAGS = {
  products: 'Products, cached: see `X-Cache` in the response.',
  session: 'Login and logout. A login gets a new session id.',
  me: 'The profile, mails and sessions of the user who is logged in.',
  cart: 'The cart is stored in the session, before and after a login.',
  orders: 'An order is placed once, however often the request is repeated.',
  sale: 'A flash sale: no piece is sold twice.',
  statistics: 'A leaderboard, visitors, views and reports.',
  live: 'What the live page shows.',
  home: 'The entry point.'
}

/** Serves the OpenAPI document of the routes that are registered later, and a page to try them, at /docs. */
export const docs = fp(async function docs (fastify) {
  await fastify.register(swagger, {
    openapi: {
      // Schemas are JSON Schema, with null.
      openapi: '3.1.0',
      info: { title: 'Shop', description: DESCRIPTION, version: '1.0.0' },
      tags: Object.entries(TAGS).map(([name, description]) => ({ name, description })),
      components: {
        securitySchemes: {
          session: {
            type: 'apiKey',
            in: 'cookie',
            name: 'sid',
            description: 'The session of a user, which `POST /login` starts.'
          },
          admin: { type: 'apiKey', in: 'cookie', name: 'sid', description: 'The session of `admin@example.com`.' }
        }
      }
    },
    transform: ({ schema, url }) => ({ schema: withoutRequiredDefaults(schema), url })
  })
  // In a context of its own: hooks that are added later do not run for it.
  await fastify.register(
    async child => {
      await child.register(
        swaggerUi, { routePrefix: '/docs', uiConfig: { tryItOutEnabled: true, displayRequestDuration: true } }
      )
    }
  )
}, { name: 'demo/docs' })

/** A parameter with a default is filled in before validation, so clients may omit it. */
function withoutRequiredDefaults (schema: FastifySchema): FastifySchema {
  const { querystring } = schema
  if (!isObjectSchema(querystring)) return schema
  const required = querystring.required?.filter(name => querystring.properties[name]?.default === undefined)
  return { ...schema, querystring: { ...querystring, required } }
}

interface ObjectSchema {
  properties: Record<string, { default?: unknown }>
  required?: string[]
}

function isObjectSchema (schema: unknown): schema is ObjectSchema {
  return typeof schema === 'object' && schema !== null && 'properties' in schema
}
