// A TCP relay between browser and server that can cut every connection, as a
// lost network does. The page's origin is the relay, so Host and Origin agree.
import net from 'node:net';

export async function startRelay(address) {
  const { hostname, port } = new URL(address);
  const open = new Set();
  let refusing = false;
  const relay = net.createServer((browser) => {
    if (refusing) return browser.destroy();
    const server = net.connect(Number(port), hostname);
    open.add(browser);
    browser.pipe(server).pipe(browser);
    const close = () => {
      open.delete(browser);
      browser.destroy();
      server.destroy();
    };
    for (const socket of [browser, server]) socket.on('error', close).on('close', close);
  });
  await new Promise((resolve) => relay.listen(0, '127.0.0.1', resolve));
  return {
    address: `http://127.0.0.1:${relay.address().port}`,
    /** Ends all connections and refuses new ones until `mend`. */
    cut() {
      refusing = true;
      for (const socket of [...open]) socket.destroy();
    },
    mend() {
      refusing = false;
    },
    async stop() {
      this.cut();
      await new Promise((resolve) => relay.close(resolve));
    },
  };
}
