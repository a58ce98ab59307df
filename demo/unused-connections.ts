import type { Socket } from 'node:net'
import fp from 'fastify-plugin'

/**
 * Closes connections without a request when the server closes. Browsers open such connections in advance, and the
 * server would wait for them.
 */
export const unusedConnections = fp(async function unusedConnections (fastify) {
  const open = new Set<Socket>()
  fastify.server.on('connection', socket => {
    open.add(socket)
    socket.once('close', () => open.delete(socket))
  })
  fastify.addHook('preClose', async () => {
    for (const socket of open) if (socket.bytesRead === 0) socket.destroy()
  })
}, { name: 'demo/unused-connections' })
