// Browsers start no worker from a file: so that search works where the site is opened from disk,
// the worker's script runs in a hidden frame there. Messages are copies and arrive later, as those
// of a worker do: who sends must not be answered before it has sent.
if (location.protocol === "file:") {
  const deliver = (target, data) => {
    const event = new MessageEvent("message", { data: structuredClone(data) });
    setTimeout(() => target.onmessage?.(event));
  };
  window.Worker = class {
    constructor(url) {
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.append(this.frame);
      const inner = this.frame.contentWindow;
      inner.postMessage = (data) => deliver(this, data);
      const script = inner.document.createElement("script");
      script.src = new URL(url, location.href);
      script.onload = () => {
        this.isReady = true;
        this.waiting.forEach((data) => this.postMessage(data));
      };
      script.onerror = (event) => this.onerror?.(event);
      inner.document.body.append(script);
    }
    postMessage(data) {
      if (this.isReady) deliver(this.frame.contentWindow, data);
      else this.waiting.push(data);
    }
    terminate() {
      this.frame.remove();
    }
  };
}
