import type { Socket } from 'node:net'
import fp from 'fastify-plugin'

/**
 * Browsers connect ahead of what they may ask for. Closing the server waits for such a connection as for a request, though
 * nothing was ever asked on it: so these are ended.
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
