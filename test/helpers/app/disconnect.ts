import { Cluster, type Redis } from 'ioredis'

/**
 * Closes a client at once. ioredis makes a Cluster that is about to be ready so even after it was closed, and its timer would keep the process of the
 * test alive.
 */
export function disconnect (client: Redis | Cluster | undefined): void {
  if (client instanceof Cluster && client.status !== 'ready') client.once('ready', () => client.disconnect())
  client?.disconnect()
}
