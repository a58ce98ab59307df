import type { FastifyInstance } from 'fastify'

/** Parses a scrape: each value by its metric and labels, as written. */
export class Scrape {
  readonly text: string
  readonly #values = new Map<string, number>()
  readonly types = new Map<string, string>()

  /** @throws for a line that is not in the text format (version 0.0.4), or repeats a series */
  constructor (text: string) {
    this.text = text
    for (const line of text.split('\n')) if (line !== '') this.#read(line)
  }

  #read (line: string): void {
    if (line.startsWith('# HELP ')) return
    const type = /^# TYPE (\S+) (counter|gauge|histogram|summary)$/.exec(line)
    if (type) {
      if (this.types.has(type[1]!)) throw new Error(`exposed twice: ${line}`)
      this.types.set(type[1]!, type[2]!)
      return
    }
    const sample = /^([a-zA-Z_:][\w:]*)(?:\{((?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\["\\n])*",?)*)\})? (\S+)$/.exec(line)
    const value = sample?.[3] === '+Inf' ? Infinity : Number(sample?.[3] ?? NaN)
    if (!sample || (Number.isNaN(value) && sample[3] !== 'Nan' && sample[3] !== 'NaN')) throw new Error(`not of the format: ${line}`)
    const name = sample[1]!
    if (!this.types.has(name) && !this.types.has(name.replace(/_(bucket|sum|count)$/, ''))) throw new Error(`without a type: ${line}`)
    const key = keyOf(name, sample[2] ?? '')
    if (this.#values.has(key)) throw new Error(`exposed twice: ${line}`)
    this.#values.set(key, value)
  }

  get size (): number {
    return this.#values.size
  }

  /** The names of all values, as in a PromQL expression. */
  get names (): Set<string> {
    return new Set([...this.#values.keys()].map(key => key.split('{', 1)[0]!))
  }

  /** The sum of all values of a metric that have these labels; undefined if there is none. */
  sum (name: string, labels: Record<string, string> = {}): number | undefined {
    const wanted = Object.entries(labels).map(([label, value]) => `${label}=${JSON.stringify(value)}`)
    const found = [...this.#values].filter(([key]) => key.startsWith(`${name}{`) && wanted.every(label => key.includes(`{${label}`) || key.includes(`,${label}`)))
    return found.length === 0 ? undefined : found.reduce((total, [, value]) => total + value, 0)
  }
}

function keyOf (name: string, labels: string): string {
  const sorted = [...labels.matchAll(/[a-zA-Z_]\w*="(?:[^"\\\n]|\\["\\n])*"/g)].map(([label]) => label).sort()
  return `${name}{${sorted.join()}}`
}

export async function scrape (app: FastifyInstance, url = '/metrics'): Promise<Scrape> {
  const response = await app.inject(url)
  if (response.statusCode !== 200) throw new Error(`${url} is ${response.statusCode}: ${response.body}`)
  return new Scrape(response.body)
}
