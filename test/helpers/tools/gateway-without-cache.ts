// The gateway of examples/gateway.ts without a cache: the conformance run against it is the baseline of a cache.
// Run by `npm run test:conformance -- test/helpers/gateway-without-cache.ts`.
import { createApp, passThrough } from '../../../examples/gateway.js'

const app = createApp()
await passThrough(app, process.env['ORIGIN'] ?? 'http://localhost:8000')
await app.listen({ port: Number(process.env['PORT'] ?? 3000) })
