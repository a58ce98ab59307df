import { randomUUID } from 'node:crypto'
import fp from 'fastify-plugin'
import { systemClock, type Clock } from '../plugins/redis/index.js'
import { sleep } from './sleep.js'

declare module 'fastify' {
  interface FastifyInstance {
    bank: Bank
  }
}

export interface Charge {
  paymentId: string
  amountCents: number
  /** The instance that charged the card. */
  chargedBy: string
}

export interface Bank {
  /** Charges a card. Each call is another charge. */
  charge (amountCents: number): Promise<Charge>
}

/** Long enough for a client to lose its connection meanwhile. */
const CHARGE_MS = 1000

/** Stands in for a bank without idempotency keys: a call that is repeated charges the card again. */
export const bank = fp<{ clock?: Clock | undefined }>(async function bank (fastify, { clock = systemClock }) {
  const { live } = fastify
  fastify.decorate('bank', {
    async charge (amountCents) {
      await sleep(clock, CHARGE_MS)
      const paymentId = randomUUID().slice(0, 8)
      live.publish({ kind: 'payment', paymentId, amountCents })
      return { paymentId, amountCents, chargedBy: live.instance }
    }
  })
}, { name: 'demo/bank', dependencies: ['demo/live'] })
