import { send } from '../api.js'
import { announce, find, make, onPress, show, write } from '../dom.js'
import { euros, number } from '../format.js'

const AMOUNT_CENTS = 2500
const OTHER_AMOUNT_CENTS = 9900
/** The page gives the response up after this time, which is before the bank has charged the card. */
const LOST_AFTER_MS = 500
const TRAIL_LENGTH = 8

interface Payment {
  paymentId: string
  chargedBy: string
}

export function idempotencyPanel (): void {
  let key = newKey()
  let requests = 0
  let replayed = 0
  const payments = new Set<string>()

  function report (text: string): void {
    write('pay-result', text)
    announce(text)
  }

  function renewKey (): void {
    key = newKey()
    write('pay-key', `${key.slice(0, 8)}…`)
  }

  async function pay (
    amountCents = AMOUNT_CENTS, signal?: AbortSignal
  ): Promise<{ status: number, paymentId: string }> {
    requests++
    write('pay-requests', number(requests))
    const response = await send<Payment>(
      'POST', '/live/payments', { body: { amountCents }, headers: { 'idempotency-key': key }, ...signal && { signal } }
    ).catch(() => undefined)
    if (response === undefined) {
      addToTrail('no response', `${euros(amountCents)}, connection closed`, 'bad')
      return { status: 0, paymentId: '' }
    }
    const { status, body, ms, instance } = response
    if (status !== 200) {
      addToTrail(String(status), status === 422 ? 'same key, another amount' : euros(amountCents), 'bad')
      return { status, paymentId: '' }
    }
    payments.add(body.paymentId)
    if (response.replayed) replayed++
    write('pay-charges', number(payments.size))
    write('pay-replayed', number(replayed))
    addToTrail(
      response.replayed ? 'replayed' : 'charged',
      `payment ${body.paymentId}, ${number(Math.round(ms))} ms, ${instance}`,
      response.replayed ? 'replayed' : 'charged'
    )
    return { status, paymentId: body.paymentId }
  }

  const failure = (status: number) => status === 503
    ? 'Redis is unavailable (503): a payment is refused rather than made twice.'
    : status === 429 ? 'Too many requests: try again later.' : `The payment failed (${status}).`

  onPress('pay', async () => {
    renewKey()
    const { status, paymentId } = await pay()
    report(status === 200 ? `The card was charged: payment ${paymentId}.` : failure(status))
  })
  onPress('pay-retry', async () => {
    const { status, paymentId } = await pay()
    report(
      status === 200
        ? `Sent with the same key: the response is payment ${paymentId}, and the card was charged once.`
        : failure(status)
    )
  })
  onPress('pay-twice', async () => {
    renewKey()
    const [first, second] = await Promise.all([pay(), pay()])
    report(first.status !== 200 || second.status !== 200
      ? failure(first.status === 200 ? second.status : first.status)
      : first.paymentId === second.paymentId
        ? `Two requests at once, one payment: ${first.paymentId}. The second request waited for the first.`
        : 'Two payments were made.')
  })
  onPress('pay-lose', async () => {
    renewKey()
    const { status } = await pay(AMOUNT_CENTS, AbortSignal.timeout(LOST_AFTER_MS))
    report(
      status === 0 ? 'The connection broke before the response. Was the card charged? Press Retry.' : failure(status)
    )
  })
  onPress('pay-other', async () => {
    const { status } = await pay(OTHER_AMOUNT_CENTS)
    report(
      status === 422
        ? 'Refused with 422: this key belongs to a request with another body.'
        : status === 200 ? 'The key was new, so the card was charged.' : failure(status)
    )
  })
  write('pay-key', `${key.slice(0, 8)}…`)
}

function addToTrail (outcome: string, detail: string, className: string): void {
  const trail = find('pay-trail', HTMLOListElement)
  trail.prepend(make('li', { className }, make('b', { text: outcome }), make('span', { text: detail })))
  while (trail.children.length > TRAIL_LENGTH) trail.lastElementChild?.remove()
  show('pay-empty', false)
}

/** `crypto.randomUUID` needs HTTPS on other hosts than localhost. */
function newKey (): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), byte => byte.toString(16).padStart(2, '0')).join('')
}
