/**
 * Ends what `global-setup.mjs` started. It prints nothing, because the summary has to stay the last line.
 */
import { stopPrivateServer } from './global-setup.mjs';

export default async function globalTeardown() {
  await stopPrivateServer();
}
