import type { FastifyPluginAsyncTypebox } from '@fastify/type-provider-typebox'
import { Type } from 'typebox'
import { ALWAYS, COSTLY } from './live-config.js'
import { responses, Whole } from './schemas.js'

/** The stream of the live page. */
export const parcels: FastifyPluginAsyncTypebox = async function parcels (fastify) {
  const { parcels } = fastify
  const config = { rateLimit: COSTLY, session: false, ...ALWAYS } as const

  fastify.post('/live/parcels', {
    schema: {
      tags: ['live'],
      summary: 'Append parcels to the stream; damaged ones become dead letters',
      body: Type.Object(
        { count: Whole({ minimum: 1, maximum: 10 }), damaged: Type.Boolean({ default: false }) },
        { additionalProperties: false, examples: [{ count: 6 }] }
      ),
      response: responses(Type.Object({ appended: Type.Integer() }), 'The number of parcels in the stream.')
    },
    config
  }, async ({ body: { count, damaged } }) => ({ appended: (await parcels.append(count, { damaged })).length }))

  fastify.post('/live/parcels/replay', {
    schema: {
      tags: ['live'],
      summary: 'Fix the handler, and have the dead letters handled again',
      response: responses(
        Type.Object({ replayed: Type.Integer() }), 'The number of dead letters that are handled again.'
      )
    },
    config
  }, async () => ({ replayed: await parcels.fixAndReplay() }))

  fastify.delete('/live/parcels/dead', {
    schema: {
      tags: ['live'],
      summary: 'Discard the dead letters',
      response: responses(Type.Object({ discarded: Type.Integer() }), 'The number of dead letters that are discarded.')
    },
    config
  }, async () => ({ discarded: await parcels.discard() }))
}
