import { pino, type Logger } from 'pino'

/** A logger that records its lines, to assert what an operator would read. */
export function collectLog (): { logger: Logger, lines: Array<Record<string, unknown>>, text: () => string } {
  const lines: Array<Record<string, unknown>> = []
  const logger = pino({ level: 'debug' }, { write: (line: string) => { lines.push(JSON.parse(line)) } })
  return { logger, lines, text: () => JSON.stringify(lines) }
}
