import { mount } from 'svelte';
import './app.css';
import App from './App.svelte';
import { applyTheme } from './lib/theme.svelte';

applyTheme();
const host = document.getElementById('app');
if (host) mount(App, { target: host });
