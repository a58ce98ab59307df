/**
 * Imports a module of the compiled suite. tsx wraps each function of the sources, which would slow down the suite but
 * not its peers: with them the guard of `bench:circuit` took three times the CPU.
 *
 * @param path - in `plugins`, without extension
 */
export async function compiled (path: string): Promise<unknown> {
  return await import(new URL(`../../dist/plugins/${path}.js`, import.meta.url).href)
}
