// The recorder's side in the browser. Samples travel to Python in the buffers of a message and are kept nowhere else:
// a trait could be stored in the notebook. Everything that is said to the learner is worded in Python.

const TAP = `registerProcessor("tap", class extends AudioWorkletProcessor {
  process([channels]) {
    if (channels.length) this.port.postMessage(channels[0].slice());
    return true;
  }
});`;

// A browser improves speech for telephony unless it is told not to, and changes level and spectrum with that.
const AS_IT_IS = { echoCancellation: false, noiseSuppression: false, autoGainControl: false, channelCount: 1 };

const failure = (name) => Object.assign(new Error(name), { name });

function within(seconds, promise) {
  const late = new Promise((_, reject) => setTimeout(() => reject(failure("TimeoutError")), 1000 * seconds));
  return Promise.race([promise, late]);
}

function joined(parts, length) {
  const samples = new Float32Array(length);
  let filled = 0;
  for (const part of parts) {
    samples.set(part.subarray(0, length - filled), filled);
    filled += Math.min(part.length, length - filled);
  }
  return samples;
}

async function record(seconds, onProgress) {
  if (!navigator.mediaDevices) throw failure("InsecureError");
  const stream = await navigator.mediaDevices.getUserMedia({ audio: AS_IT_IS });
  const context = new AudioContext();
  const address = URL.createObjectURL(new Blob([TAP], { type: "text/javascript" }));
  try {
    await within(5, context.resume()); // without an audio output it may never return
    await context.audioWorklet.addModule(address);
    const tap = new AudioWorkletNode(context, "tap", { channelCount: 1, channelCountMode: "explicit" });
    const parts = [];
    let [length, begun] = [0, false];
    const wanted = Math.round(seconds * context.sampleRate);
    const complete = new Promise((resolve) => {
      tap.port.onmessage = ({ data }) => {
        begun ||= data.some((sample) => sample !== 0); // a device begins with some zeros
        if (!begun || length >= wanted) return;
        parts.push(data);
        length += data.length;
        onProgress(data, length / context.sampleRate);
        if (length >= wanted) resolve();
      };
    });
    context.createMediaStreamSource(stream).connect(tap);
    await Promise.race([complete, new Promise((resolve) => setTimeout(resolve, 1000 * (seconds + 2)))]);
    return { samples: joined(parts, Math.min(length, wanted)), sample_rate: context.sampleRate };
  } finally {
    URL.revokeObjectURL(address);
    stream.getTracks().forEach((track) => track.stop());
    context.close();
  }
}

async function decode(bytes) {
  const context = new OfflineAudioContext(1, 1, 48000);
  const sound = await context.decodeAudioData(bytes);
  return { samples: sound.getChannelData(0).slice(), sample_rate: sound.sampleRate };
}

function element(kind, parent, settings) {
  return parent.appendChild(Object.assign(document.createElement(kind), settings));
}

function render({ model, el }) {
  const prompt = element("div", el, { className: "course-prompt", style: "font-size: 1.6em; margin: 0.2em 0" });
  const row = element("div", el, { style: "display: flex; gap: 0.8em; align-items: center; flex-wrap: wrap" });
  const button = element("button", row, { className: "course-record jupyter-button", textContent: "● Record" });
  const meter = element("meter", row, { min: -60, max: 0, high: -6, value: -60, title: "level in dB" });
  const left = element("span", row, { style: "min-width: 3.5em; font-variant-numeric: tabular-nums" });
  const label = element("label", row, { textContent: "or a sound file: " });
  const chooser = element("input", label, { type: "file", accept: "audio/*,.wav,.flac,.ogg,.mp3,.m4a" });
  const said = element("div", el, { className: "course-said", style: "margin: 0.3em 0" });
  said.setAttribute("aria-live", "polite");
  let file = null;

  const send = ({ samples, sample_rate }) =>
    model.send({ kind: "recorded", sample_rate }, undefined, [samples.buffer]);
  const refuse = (error) => model.send({ kind: "refused", reason: error.name });
  const showPrompt = () => { prompt.textContent = model.get("prompt"); };

  button.addEventListener("click", async () => {
    button.disabled = true;
    said.textContent = "";
    const seconds = model.get("seconds");
    try {
      send(await record(seconds, (part, time) => {
        const power = part.reduce((sum, sample) => sum + sample * sample, 0) / part.length;
        meter.value = 10 * Math.log10(power + 1e-6);
        left.textContent = `${Math.max(0, seconds - time).toFixed(1)} s`;
      }));
    } catch (error) {
      refuse(error);
    }
    [meter.value, left.textContent, button.disabled] = [-60, "", false];
  });

  chooser.addEventListener("change", async () => {
    if (!chooser.files.length) return;
    file = await chooser.files[0].arrayBuffer();
    model.send({ kind: "file", name: chooser.files[0].name }, undefined, [file]);
    chooser.value = "";
  });

  const receive = async (message) => {
    if (message.kind === "said") said.textContent = message.text;
    if (message.kind === "decode" && file) { // of another kind than Python reads, such as a phone's
      try {
        send(await decode(file.slice()));
      } catch {
        refuse(failure("UnreadableError"));
      }
    }
  };

  showPrompt();
  model.on("change:prompt", showPrompt);
  model.on("msg:custom", receive);
  return () => {
    model.off("change:prompt", showPrompt);
    model.off("msg:custom", receive);
  };
}

export default { render };
