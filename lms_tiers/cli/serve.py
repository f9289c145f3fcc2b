"""`lms-tiers serve`: an lm:// server over any device text, in place of LMCache's own."""

from __future__ import annotations

from typing import Optional

import typer


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("serve")
    def serve(
        ctx: typer.Context,
        host: Optional[str] = typer.Option(None, help="Where to listen.  \\[default: 127.0.0.1]"),
        port: Optional[int] = typer.Option(None, help="Port; 0 takes a free one.  \\[default: 65432]"),
        unix: Optional[str] = typer.Option(None, metavar="PATH", help="Listen on a Unix-domain socket instead."),
        device: Optional[str] = typer.Option(None, help="Tiers, fastest first.  \\[default: cpu?capacity=4GiB]"),
        config: Optional[str] = typer.Option(None, metavar="FILE.toml", help="Settings; options given here win."),
        max_chunk: Optional[str] = typer.Option(None, metavar="SIZE", help="Largest chunk.  \\[default: 256MiB]"),
        receive_budget: Optional[str] = typer.Option(
            None, metavar="SIZE", help="Most bytes of chunks on their way in.  \\[default: 1GiB]"
        ),
        threads: Optional[int] = typer.Option(None, help="Requests served at one time.  \\[default: 32]"),
        max_connections: Optional[int] = typer.Option(None, help="More are refused.  \\[default: 4096]"),
        allow: Optional[list[str]] = typer.Option(None, metavar="CIDR", help="Peers that may connect; repeatable."),
        tls_cert: Optional[str] = typer.Option(None, metavar="PEM", help="Certificate: serve TLS."),
        tls_key: Optional[str] = typer.Option(None, metavar="PEM", help="Its key."),
        tls_client_ca: Optional[str] = typer.Option(None, metavar="PEM", help="Demand client certificates of this CA."),
        idle_timeout: Optional[float] = typer.Option(None, help="Seconds a connection may be silent."),
        drain_timeout: Optional[float] = typer.Option(None, help="Seconds to finish after SIGTERM.  \\[default: 30]"),
        metrics_host: Optional[str] = typer.Option(None, help="Where metrics listen.  \\[default: 127.0.0.1]"),
        metrics_port: Optional[int] = typer.Option(None, help="/metrics, /healthz and /readyz.  \\[default: none]"),
        log_format: Optional[str] = typer.Option(None, help="text or json.  \\[default: text]"),
        strict: Optional[bool] = typer.Option(
            None, "--strict", help="Refuse capacities that memory or disk cannot hold; without it, warn of them."
        ),
    ) -> None:
        """Serve a device over LMCache's lm:// protocol.

        Until SIGTERM; SIGHUP reloads capacities from --config.

        Exit 0 when drained and flushed, 1 when connections were cut or the flush did not finish, 2 on a wrong setting.
        """
        from lms_tiers.server.fit import check_fit
        from lms_tiers.server.logs import configure
        from lms_tiers.server.run import serve as run
        from lms_tiers.server.settings import ServerSettings, make_settings

        given = {
            name: value
            for name, value in ctx.params.items()
            if name not in ("config",) and value is not None and value != () and value != []
        }

        def settings() -> ServerSettings:
            return make_settings(config, given)

        first = settings()
        configure(first.log_format, verbose=bool(ctx.parent and ctx.parent.params.get("verbose")))
        check_fit(first)
        raise typer.Exit(run(first, settings, typer.echo))
