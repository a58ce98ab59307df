import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Type } from 'typebox'
import { ALWAYS, COSTLY } from './live-config.js'
import { responses } from './schemas.js'

/** The locks of the live page. */
export const document: FastifyPluginAsyncTypebox = async function document (fastify) {
  fastify.post('/live/document', {
    schema: {
      tags: ['live'],
      summary: 'Edit the document under its lock, for 1.5 s; 423 if another worker holds it',
      body: Type.Object({
        worker: Type.Union([Type.Literal('A'), Type.Literal('B')]),
        wait: Type.Boolean({ default: true, description: 'Whether to wait for the lock, for 10 s at most' }),
        stall: Type.Boolean({ default: false, description: 'Whether the worker pauses for longer than its lock lasts' })
      }, { additionalProperties: false, examples: [{ worker: 'A' }] }),
      response: responses(Type.Object({
        token: Type.Integer({ description: 'The fencing token of the lock' }),
        waitedMs: Type.Integer(),
        written: Type.Boolean({ description: 'False if a worker with a higher token has written meanwhile' })
      }), 'The edit.', 423)
    },
    config: { rateLimit: COSTLY, session: false, ...ALWAYS }
  }, async ({ body: { worker, wait, stall } }) => await fastify.document.edit(worker, { wait, stall }))
}
