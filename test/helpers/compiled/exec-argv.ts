/** The arguments with which Node.js runs TypeScript in a process that a test starts. */
export const TYPESCRIPT: readonly string[] = ['--import', new URL('register.js', import.meta.url).href]

/** For a process that does not inherit the environment. */
export const TYPESCRIPT_ENV = { TEST_COMPILED: process.env['TEST_COMPILED'], TEST_FASTIFY: process.env['TEST_FASTIFY'] }
