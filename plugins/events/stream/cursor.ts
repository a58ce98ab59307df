import type { StoredMessage } from '../../shared/work-queue/queue.js'

/** How far a partition was read. */
export interface Position {
  readonly id: string
  /** The event's number; undefined where it is unknown. */
  readonly n: number | undefined
}

export const START: Position = { id: '0-0', n: undefined }

const POSITION = /^(?:0|(\d{1,16})-(\d{1,20})(?:\.(\d{1,16}))?)$/
const MAX_COUNT = 2n ** 64n - 1n

/** Returns the id of an event, which is exact for its partition. */
export function eventIdOf (event: StoredMessage, partition: number, partitions: number): string {
  return partitions === 1 ? textOf(positionOf(event)) : `${textOf(positionOf(event))}@${partition}`
}

export function positionOf ({ id, n }: StoredMessage): Position {
  return { id, n: Number.isSafeInteger(n) ? n : undefined }
}

export function cursorOf (positions: readonly Position[]): string {
  return positions.map(textOf).join('_')
}

/** Returns the positions of a cursor; undefined where it is not a cursor of a stream with `partitions` partitions. */
export function parseCursor (cursor: unknown, partitions: number): Position[] | undefined {
  if (typeof cursor !== 'string') return undefined
  if (cursor === '0') return Array.from({ length: partitions }, () => START)
  const own = partitions > 1 ? /^([^@]*)@(\d{1,2})$/.exec(cursor) : null
  if (own !== null) return atTimeOf(own[1] ?? '', Number(own[2]), partitions)
  const positions = cursor.split('_', partitions + 1).map(parsePosition)
  return positions.length === partitions && isWhole(positions) ? positions : undefined
}

function isWhole (positions: Array<Position | undefined>): positions is Position[] {
  return !positions.includes(undefined)
}

/** Returns the position in one partition, and in the others the start of the same millisecond. */
function atTimeOf (text: string, partition: number, partitions: number): Position[] | undefined {
  const position = parsePosition(text)
  if (position === undefined || partition >= partitions) return undefined
  const time = Number.parseInt(position.id, 10)
  const before = time === 0 ? START : { id: `${time - 1}-${MAX_COUNT}`, n: undefined }
  return Array.from({ length: partitions }, (_, index) => index === partition ? position : before)
}

function textOf ({ id, n }: Position): string {
  if (n !== undefined) return `${id}.${n}`
  return id === START.id ? '0' : id
}

function parsePosition (text: string): Position | undefined {
  const match = POSITION.exec(text)
  if (match === null) return undefined
  const [, time, count, n] = match
  if (time === undefined || count === undefined) return START
  const isValid = [time, n ?? 0].every(each => Number.isSafeInteger(Number(each))) && BigInt(count) <= MAX_COUNT
  return isValid ? { id: `${Number(time)}-${BigInt(count)}`, n: n === undefined ? undefined : Number(n) } : undefined
}
