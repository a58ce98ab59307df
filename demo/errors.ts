import { STATUS_CODES } from 'node:http'
import type { FastifyError, FastifyReply, FastifyRequest } from 'fastify'
import fp from 'fastify-plugin'

/**
 * Sends all errors in one form. Internal errors are logged, and their messages are not sent. With `isLimited`, requests
 * without a route count for the limit of their address.
 */
export const errors = fp<{ isLimited: boolean }>(async function errors (fastify, { isLimited }) {
  fastify.setErrorHandler((error: FastifyError, request: FastifyRequest, reply: FastifyReply) => {
    const statusCode = error.statusCode !== undefined && error.statusCode >= 400 ? error.statusCode : 500
    if (statusCode >= 500 && statusCode !== 503) request.log.error({ err: error }, 'request failed')
    const isInternal = statusCode >= 500 && statusCode !== 503
    return reply.code(statusCode).send({
      statusCode,
      ...(isInternal || error.code === undefined ? {} : { code: error.code }),
      error: STATUS_CODES[statusCode] ?? 'Error',
      message: isInternal ? 'something went wrong here' : error.message
    })
  })
  fastify.setNotFoundHandler(isLimited ? { preHandler: fastify.rateLimit() } : {}, (request, reply) =>
    reply.code(404).send({
      statusCode: 404, error: 'Not Found', message: `no route ${request.method} ${request.url.split('?', 1)[0]}`
    }))
}, { name: 'demo/errors' })
