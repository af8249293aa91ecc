// Run a model in onnxruntime-node or onnxruntime-web: node in_node.cjs MODEL INPUT OUTPUT OPTIONS
const fs = require("fs");
const path = require("path");
const { createRequire } = require("module");

async function main() {
  const [model, input, output, text] = process.argv.slice(2);
  const options = JSON.parse(text);
  const ort = createRequire(path.join(process.env.TORCHMILL_NODE_MODULES, "x.js"))(options.package);
  if (options.package === "onnxruntime-web") ort.env.wasm.numThreads = 1;
  const session = await ort.InferenceSession.create(fs.readFileSync(model));
  const bytes = new Uint8Array(fs.readFileSync(input)).buffer; // small files share a larger buffer
  const types = { float32: Float32Array, uint8: Uint8Array, int64: BigInt64Array };
  const whole = new types[options.kind](bytes);
  const rest = options.shape.slice(1);
  const width = rest.reduce((a, b) => a * b, 1);
  const results = [];
  for (const size of options.batches) {
    const tensor = new ort.Tensor(options.kind, whole.slice(0, size * width), [size, ...rest]);
    const answer = await session.run({ [session.inputNames[0]]: tensor });
    const first = answer[session.outputNames[0]];
    results.push([first.dims, Array.from(first.data, Number)]);
  }
  fs.writeFileSync(output, JSON.stringify(results));
}

main().catch((error) => {
  console.error("Error: " + error.message);
  process.exit(1);
});
