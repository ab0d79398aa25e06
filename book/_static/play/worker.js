// Runs the networks, away from the page: so the page answers while a map is computed.
//
// In:  {id, network, file, inputs}; a network is a folder with weights.bin and ONNX files.
// Out: {id, output, milliseconds}, or {id, error}.

const MOST_SESSIONS = 6; // that are kept; each holds the network's weights
const sessions = new Map(); // address of a file -> its session, the latest last
let weights = { network: null, bytes: null };
let ort = null;

async function runtime() {
  if (!ort) {
    ort = await import("./ort/ort.wasm.min.mjs");
    ort.env.wasm.numThreads = 1; // more would need headers that few web servers send
    ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
  }
  return ort;
}

async function fetched(address) {
  const answer = await fetch(address);
  if (!answer.ok) throw new Error(`${address.pathname}: ${answer.status}`);
  return new Uint8Array(await answer.arrayBuffer());
}

async function weightsOf(network) {
  if (weights.network !== network) {
    weights = { network, bytes: await fetched(new URL(`./${network}/weights.bin`, import.meta.url)) };
  }
  return weights.bytes;
}

async function sessionOf(network, file) {
  const address = new URL(`./${network}/${file}`, import.meta.url);
  let session = sessions.get(address.href);
  sessions.delete(address.href); // it comes back as the latest
  if (!session) {
    const { InferenceSession } = await runtime();
    const data = await weightsOf(network);
    session = await InferenceSession.create(await fetched(address), {
      executionProviders: ["wasm"],
      externalData: [{ path: "weights.bin", data }],
    });
  }
  sessions.set(address.href, session);
  if (sessions.size > MOST_SESSIONS) {
    const [oldest, unused] = sessions.entries().next().value;
    sessions.delete(oldest);
    await unused.release();
  }
  return session;
}

async function run({ network, file, inputs }) {
  const session = await sessionOf(network, file);
  const feeds = {};
  for (const [name, { data, dims }] of Object.entries(inputs)) {
    feeds[name] = new ort.Tensor("float32", data, dims);
  }
  const start = performance.now();
  const results = await session.run(feeds);
  const milliseconds = performance.now() - start;
  const result = results[session.outputNames[0]];
  const output = { data: Float32Array.from(result.data), dims: [...result.dims] };
  for (const tensor of [...Object.values(feeds), result]) tensor.dispose();
  return { output, milliseconds };
}

// One after the other: two runs of one session at once are not allowed.
let last = Promise.resolve();

self.onmessage = ({ data: { id, ...question } }) => {
  last = last.then(async () => {
    try {
      self.postMessage({ id, ...(await run(question)) });
    } catch (error) {
      self.postMessage({ id, error: String(error.message ?? error) });
    }
  });
};
