import type { Cluster, Redis } from 'ioredis'

/** A session as Redis has it; see plugins/session/store/scripts.ts. */
const FORM = /^(s1\d{30}[01])(\d+)\n([^\n]*\n[^\n]*)\n([^]*)$/

async function partsOf (client: Redis | Cluster, key: string): Promise<string[]> {
  const [, head = '', version = '', lines = '', text = ''] = FORM.exec(await client.get(key) ?? '') ?? []
  return [head, version, lines, text]
}

/** Returns the version and the properties of a stored session. */
export async function storedSession (client: Redis | Cluster, key: string): Promise<{ version: string, text: string }> {
  const [, version = '', , text = ''] = await partsOf(client, key)
  return { version, text }
}

/** Replaces the properties of a stored session, as another request does that also changes the version. */
export async function replaceText (client: Redis | Cluster, key: string, text: string, version?: string): Promise<void> {
  const [head, present, lines] = await partsOf(client, key)
  await client.set(key, `${head}${version ?? present}\n${lines}\n${text}`, 'KEEPTTL')
}
